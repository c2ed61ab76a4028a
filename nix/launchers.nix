# `nix run .#swerl-gpu -- train --config config.yaml`: the command line of the project on the locked environment, without a shell.
{ pkgs, environments }:
let
  launcher = name: train: setup:
    pkgs.writeShellScriptBin name ''
      export VENV_PATH=${train} TRIALS_VENV_PATH=${environments.trials}
      ${setup}
      exec ${train}/bin/swerl "$@"
    '';
  cudaHome = "${environments.gpu}/${environments.sitePackages}/nvidia/cu13";
in
{
  swerl-cpu = launcher "swerl-cpu" environments.cpu "";
  swerl-gpu = launcher "swerl-gpu" environments.gpu ''
    export CUDA_HOME=${cudaHome} SWERL_CUDA_LIBS=${cudaHome}/lib CC=${pkgs.gcc}/bin/gcc CXX=${pkgs.gcc}/bin/g++
    source ${./driver.sh}
  '';
  env-verify = pkgs.writeShellScriptBin "env-verify" ''
    exec ${environments.cpu}/bin/swerl env verify "$@"
  '';
}
