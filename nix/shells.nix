# Development shells. Each holds the very environment derivations that the images hold, and tells uv to leave them alone.
#   nix develop            trainer on a CPU, and the trials environment
#   nix develop .#gpu      trainer on GPUs, and the trials environment; the host's driver is linked by nix/driver.sh
#   nix develop .#trials   the trials environment alone
{ pkgs, environments }:
let
  tools = [ pkgs.uv pkgs.git pkgs.gnumake pkgs.bubblewrap pkgs.coreutils pkgs.gnused ];

  shell = name: train: extra: hook:
    pkgs.mkShell ({
      name = "swerl-${name}";
      packages = (if train == null then [ environments.trials ] else [ train ]) ++ tools;
      UV_NO_SYNC = "1";
      UV_PYTHON_DOWNLOADS = "never";
      UV_PYTHON = "${environments.python}/bin/python3.12";
      TRIALS_VENV_PATH = "${environments.trials}";
      SWERL_LOCK_HASH = environments.lockHash;
      shellHook = hook;
    } // (if train == null then { } else { VENV_PATH = "${train}"; }) // extra);

  cudaHome = "${environments.gpu}/${environments.sitePackages}/nvidia/cu13";
in
{
  default = shell "cpu" environments.cpu { } "";

  gpu = shell "gpu" environments.gpu
    {
      # nvcc, ptxas and the headers are wheels too; the host compiler for what is compiled at run time is nixpkgs' gcc.
      CUDA_HOME = cudaHome;
      SWERL_CUDA_LIBS = "${cudaHome}/lib";
      CC = "${pkgs.gcc}/bin/gcc";
      CXX = "${pkgs.gcc}/bin/g++";
    }
    ''
      source ${./driver.sh}
    '';

  trials = shell "trials" null { } "";
}
