# `nix flake check`: each environment imports, its own verb answers, and what ships is what the shells hold.
{ pkgs, lock, environments, images }:
let
  imports = name: env: modules:
    pkgs.runCommand "swerl-imports-${name}" { } ''
      export HOME=$TMPDIR
      ${env}/bin/python -c "import ${builtins.concatStringsSep ", " modules}"
      ${env}/bin/swerl --help > $out
    '';
in
{
  imports-cpu = imports "cpu" environments.cpu [ "torch" "verl" "vllm" "ray" "transformers" "swerl" ];
  imports-trials = imports "trials" environments.trials [ "harbor" "swerl" ];
  # Without a driver torch still loads: the driver's library is opened on first use.
  imports-gpu = imports "gpu" environments.gpu [ "torch" "verl" "ray" "transformers" "swerl" ];

  shell-syntax = pkgs.runCommand "swerl-shell-syntax" { } ''
    ${pkgs.bashInteractive}/bin/bash -n ${./driver.sh}
    ${pkgs.bashInteractive}/bin/bash -n ${./verify.sh}
    echo ${lock.hash} > $out
  '';
}
