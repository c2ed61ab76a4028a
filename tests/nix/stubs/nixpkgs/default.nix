{ system ? "x86_64-linux" }:
let
  # A derivation that keeps what it was given as build variables, so that its closure is what the real one's would be.
  mkDerivation = attrs:
    let
      plain = builtins.removeAttrs attrs [ "passthru" "pname" "version" "name" ];
      text = value: if builtins.isAttrs value && !(value ? outPath) then builtins.toJSON value else value;
      drv = derivation (builtins.mapAttrs (_: text) plain // {
        name = attrs.name or "${attrs.pname}-${attrs.version}";
        inherit system;
        builder = "/bin/sh";
        args = [ "-c" (attrs.script or "echo stub > $out") ];
      });
    in
    drv // (attrs.passthru or { }) // { overrideAttrs = change: mkDerivation (attrs // change attrs); };

  tool = name: mkDerivation { inherit name; };
  names = [
    "python312" "uv" "git" "gnumake" "bubblewrap" "coreutils" "gnused" "gnugrep" "gcc" "bashInteractive" "cacert" "rdma-core" "zlib"
    "numactl" "autoAddDriverRunpath" "autoPatchelfHook" "nixfmt"
  ];
in
builtins.listToAttrs (map (name: { inherit name; value = tool name; }) names) // {
  stdenv = { inherit mkDerivation; cc.cc.lib = tool "gcc-lib"; };
  callPackage = function: function;
  mkShell = attrs: mkDerivation (attrs // { passthru = { inherit attrs; }; });
  linkFarm = name: entries: mkDerivation {
    inherit name;
    links = map (e: "${e.name} ${e.path}") entries;
    passthru = { inherit entries; };
  };
  runCommand = name: attrs: script: mkDerivation (attrs // { inherit name script; });
  writeShellScriptBin = name: text: mkDerivation { inherit name text; };
  dockerTools = {
    fakeNss = tool "fake-nss";
    streamLayeredImage = attrs: mkDerivation (attrs // { name = "stream-${attrs.name}"; passthru = { inherit attrs; }; });
  };
}
