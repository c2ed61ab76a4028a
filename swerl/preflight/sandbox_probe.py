print('{"error":"not written"}')
