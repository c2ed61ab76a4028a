# Every locked artifact in one folder, under the name that installers expect:
#   uv pip install --no-index --find-links ./result --require-hashes -r requirements.gpu.txt
{ pkgs, lock, wheels }:
pkgs.linkFarm "swerl-wheelhouse" (map (entry: { name = entry.file; path = entry.source; }) wheels.entries)
