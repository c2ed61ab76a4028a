{
  inputs.nixpkgs.url = "path:../nixpkgs";
  inputs.pyproject-nix.url = "path:../pyproject-nix";
  outputs = { self, nixpkgs, pyproject-nix }:
    let
      pkgs = import nixpkgs { };
      closures = builtins.fromJSON (builtins.readFile ./closures.json);
      fileName = url: builtins.replaceStrings [ "%2B" ] [ "+" ] (builtins.head (builtins.match ".*/([^/]+)" url));
      fetch = artifact: derivation {
        name = fileName artifact.url;
        system = "x86_64-linux";
        builder = "builtin:fetchurl";
        inherit (artifact) url;
        urls = [ artifact.url ];
        executable = false;
        unpack = false;
        outputHashMode = "flat";
        outputHashAlgo = "sha256";
        outputHash = builtins.substring 7 64 artifact.hash;
      };
    in
    {
      lib.workspace.loadWorkspace = { workspaceRoot }:
        let
          lock = builtins.fromTOML (builtins.readFile (workspaceRoot + "/uv.lock"));
          local = builtins.listToAttrs (map (p: { inherit (p) name; value = p; }) (builtins.filter (p: !(p.source ? registry)) lock.package));
          # As in uv2nix, a name that any local package has is taken for that local package, in every environment.
          build = package:
            if local ? ${package.name} then
              pkgs.stdenv.mkDerivation { pname = package.name; inherit (package) version; src = workspaceRoot; }
            else
              pkgs.stdenv.mkDerivation {
                pname = package.name;
                inherit (package) version;
                src = fetch (builtins.head ((package.wheels or [ ]) ++ [ (package.sdist or null) ]));
              };
        in
        {
          mkPyprojectOverlay = { sourcePreference, dependencies }: final: prev:
            let
              key = builtins.concatStringsSep "+" dependencies.swerl;
              versions = closures.${key} or (throw "closures.json has no ${key}");
              chosen = builtins.filter (p: (versions.${p.name} or null) == (p.version or "")) lock.package;
            in
            builtins.listToAttrs (map (p: { inherit (p) name; value = build p; }) chosen) // { lockedNames = builtins.attrNames versions; };
        };
    };
}
