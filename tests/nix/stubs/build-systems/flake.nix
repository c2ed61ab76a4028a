{
  inputs.nixpkgs.url = "path:../nixpkgs";
  inputs.pyproject-nix.url = "path:../pyproject-nix";
  inputs.uv2nix.url = "path:../uv2nix";
  outputs = { self, nixpkgs, pyproject-nix, uv2nix }: { overlays.wheel = _: _: { }; };
}
