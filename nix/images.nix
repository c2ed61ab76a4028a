# OCI images from the same environment derivations as the shells, streamed: `$(nix build --print-out-paths .#image-gpu) | docker load`.
# No base image, no package manager; created at the epoch, so that the same lock gives the same digest.
{ pkgs, environments }:
let
  common = [ pkgs.bashInteractive pkgs.coreutils pkgs.gnused pkgs.gnugrep pkgs.git pkgs.bubblewrap pkgs.cacert pkgs.dockerTools.fakeNss ];

  image = { name, path, env ? [ ], contents ? [ ], entrypoint }:
    pkgs.dockerTools.streamLayeredImage {
      name = "swerl-${name}";
      tag = builtins.substring 0 16 environments.lockHash;
      created = "1970-01-01T00:00:01Z";
      maxLayers = 100;
      contents = common ++ contents;
      extraCommands = ''
        mkdir -m 1777 tmp
        mkdir -p runs
      '';
      config = {
        Entrypoint = entrypoint;
        WorkingDir = "/runs";
        User = "65534:65534";
        Env = [
          "PATH=${builtins.concatStringsSep ":" (map (p: "${p}/bin") path)}:/bin"
          "HOME=/tmp"
          "SSL_CERT_FILE=${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt"
          "PYTHONDONTWRITEBYTECODE=1"
          "TRIALS_VENV_PATH=${environments.trials}"
        ] ++ env;
        Labels = {
          "org.opencontainers.image.title" = "swerl-${name}";
          "swerl.lock.sha256" = environments.lockHash;
        };
      };
    };

  # Where the NVIDIA container toolkit mounts the driver depends on what distribution it takes the image for; all its places are searched.
  driverPath = "/usr/lib64:/usr/lib/x86_64-linux-gnu:/usr/local/nvidia/lib64";
  cudaHome = "${environments.gpu}/${environments.sitePackages}/nvidia/cu13";
in
{
  image-gpu = image {
    name = "gpu";
    path = [ environments.gpu pkgs.gcc ];
    contents = [ pkgs.gcc ];
    entrypoint = [ "${environments.gpu}/bin/swerl" ];
    env = [
      "VENV_PATH=${environments.gpu}"
      "NVIDIA_VISIBLE_DEVICES=all"
      "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
      "LD_LIBRARY_PATH=${driverPath}:${cudaHome}/lib"
      "CUDA_HOME=${cudaHome}"
      "CC=${pkgs.gcc}/bin/gcc"
      "CXX=${pkgs.gcc}/bin/g++"
    ];
  };

  image-cpu = image {
    name = "cpu";
    path = [ environments.cpu ];
    entrypoint = [ "${environments.cpu}/bin/swerl" ];
    env = [ "VENV_PATH=${environments.cpu}" ];
  };

  image-trials = image {
    name = "trials";
    path = [ environments.trials ];
    entrypoint = [ "${environments.trials}/bin/swerl" ];
  };
}
