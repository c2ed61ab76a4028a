rec {
  hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
  composeExtensions = first: second: final: prev:
    let a = first final prev; b = second final (prev // a); in a // b;
  composeManyExtensions = builtins.foldl' composeExtensions (_: _: { });
}
