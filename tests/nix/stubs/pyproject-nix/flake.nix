{
  inputs.nixpkgs.url = "path:../nixpkgs";
  outputs = { self, nixpkgs }:
    let
      pkgs = import nixpkgs { };
      scope = extension:
        let final = base final // extension final (base final); in final;
      base = final: {
        pyprojectWheelHook = pkgs.stdenv.mkDerivation { name = "pyproject-wheel-hook"; };
        resolveBuildSystem = spec: map (name: pkgs.stdenv.mkDerivation { inherit name; }) (builtins.attrNames spec);
        mkVirtualEnv = name: spec: pkgs.stdenv.mkDerivation {
          inherit name;
          packages = map (package: "${final.${package}}") final.lockedNames;
          extras = spec.swerl;
        };
      };
    in
    { build.packages = { python }: { overrideScope = scope; }; };
}
