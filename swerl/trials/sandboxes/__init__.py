"""Where an agent's commands run. Each backend is one Harbor environment class; the config names it by import path.

`bubblewrap` is swerl's own and is split so that each part can be read and tested alone: `spec` (what to build), `seccomp` (which system
calls are refused), `launch` (the command line and the host side of the limits), `inside` (the program that is process 1 of the sandbox),
`wire` (the frames between the two), `tree` (file transfer that follows no link), `bubblewrap` (Harbor's protocol over all of it).
"""
