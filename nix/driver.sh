# Sourced by shells and launchers. The NVIDIA driver is the only part of the environment that comes from the host: its libraries are
# linked, alone, into a private folder that goes first on LD_LIBRARY_PATH. The host's library folder itself never does: it holds another
# C library. Sets SWERL_DRIVER_LIBS, TRITON_LIBCUDA_PATH and LD_LIBRARY_PATH; without a driver it says so and sets nothing.
# Give the folder of libcuda.so.1 in SWERL_DRIVER_DIR where it lies in none of the usual places.

swerl_driver_dir() {
  local dir
  for dir in "${SWERL_DRIVER_DIR:-}" /run/opengl-driver/lib /usr/local/nvidia/lib64 /usr/lib/wsl/lib; do
    if [ -n "$dir" ] && [ -e "$dir/libcuda.so.1" ]; then echo "$dir"; return 0; fi
  done
  if [ -x /sbin/ldconfig ]; then
    dir="$(/sbin/ldconfig -p 2>/dev/null | sed -n 's|.*libcuda\.so\.1 .*x86-64.* => \(/.*\)/libcuda\.so\.1$|\1|p' | head -n 1)"
    if [ -n "$dir" ]; then echo "$dir"; return 0; fi
  fi
  for dir in /usr/lib/x86_64-linux-gnu /usr/lib64; do
    if [ -e "$dir/libcuda.so.1" ]; then echo "$dir"; return 0; fi
  done
  return 1
}

swerl_link_driver() {
  local from into name
  if ! from="$(swerl_driver_dir)"; then
    echo "swerl: no libcuda.so.1 on this host; GPU work is not possible here (SWERL_DRIVER_DIR names another place)" >&2
    return 0
  fi
  # One folder per place of origin: two shells on one host do not take each other's links away.
  into="${XDG_CACHE_HOME:-$HOME/.cache}/swerl/driver/$(echo "$from" | tr '/' '_')"
  rm -rf "$into.new.$$"
  mkdir -p "$into.new.$$"
  for name in "$from"/libcuda.so* "$from"/libnvidia-ml.so* "$from"/libnvidia-ptxjitcompiler.so* "$from"/libnvidia-nvvm*.so* "$from"/libnvidia-gpucomp.so*; do
    if [ -e "$name" ]; then ln -s "$name" "$into.new.$$/"; fi
  done
  rm -rf "$into"
  mv -T "$into.new.$$" "$into"
  export SWERL_DRIVER_LIBS="$into"
  export TRITON_LIBCUDA_PATH="$into"
  export LD_LIBRARY_PATH="$into${SWERL_CUDA_LIBS:+:$SWERL_CUDA_LIBS}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
}

swerl_link_driver
