{
  description = "swerl: online RL for software-engineering agents, one environment byte for byte";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    pyproject-nix = {
      url = "github:pyproject-nix/pyproject.nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    uv2nix = {
      url = "github:pyproject-nix/uv2nix";
      inputs.pyproject-nix.follows = "pyproject-nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    pyproject-build-systems = {
      url = "github:pyproject-nix/build-system-pkgs";
      inputs.pyproject-nix.follows = "pyproject-nix";
      inputs.uv2nix.follows = "uv2nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  # Every Python package comes from uv.lock; nixpkgs gives the interpreter, the C library, tools and the system libraries that
  # nix/elf.toml names. docs/environment.md says what has been run and what has only been evaluated.
  outputs = { self, nixpkgs, pyproject-nix, uv2nix, pyproject-build-systems }:
    let
      system = "x86_64-linux"; # the lock holds no other platform
      pkgs = import nixpkgs { inherit system; };
      lock = import ./nix/lock.nix { uvLock = ./uv.lock; };
      wheels = import ./nix/wheels.nix { inherit system lock; };
      environments = import ./nix/environments.nix {
        inherit (nixpkgs) lib;
        inherit pkgs lock wheels pyproject-nix uv2nix pyproject-build-systems;
        root = ./.;
      };
      launchers = import ./nix/launchers.nix { inherit pkgs environments; };
      images = import ./nix/images.nix { inherit pkgs environments; };
      shells = import ./nix/shells.nix { inherit pkgs environments; };
    in
    {
      packages.${system} = {
        default = environments.cpu;
        env-cpu = environments.cpu;
        env-gpu = environments.gpu;
        env-trials = environments.trials;
        swerl = environments.project;
        wheelhouse = import ./nix/wheelhouse.nix { inherit pkgs lock wheels; };
      } // images // launchers;

      # One fixed-output derivation per locked package and version: `nix build .#wheels.torch-2_11_0`.
      legacyPackages.${system}.wheels = wheels.byAttribute;

      devShells.${system} = shells;

      apps.${system} = builtins.mapAttrs (name: launcher: { type = "app"; program = "${launcher}/bin/${name}"; }) launchers;

      checks.${system} = import ./nix/checks.nix { inherit pkgs lock environments images; };

      formatter.${system} = pkgs.nixfmt;

      # Facts for tests and for other flakes: which environment goes into which image and shell, and which wheel is taken for which package.
      lib = {
        inherit (wheels) picked;
        environments = builtins.mapAttrs (_: env: env.drvPath) { inherit (environments) cpu gpu trials; };
      };
    };
}
