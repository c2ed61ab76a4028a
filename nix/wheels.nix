# The artifact of each locked package for linux x86_64, glibc and CPython 3.12, as a fixed-output derivation that needs no nixpkgs.
# builtin:fetchurl with the URL and the hash of uv.lock: the store path is a function of the file name and the hash alone, so it is the
# path that uv2nix's own fetch of the same wheel has, and both share the bytes.
{ system, lock }:
let
  inherit (builtins) elemAt filter foldl' head listToAttrs length match replaceStrings;

  unquote = replaceStrings [ "%2B" "%2b" "%21" "%40" ] [ "+" "+" "!" "@" ];
  fileName = url: unquote (head (match ".*/([^/]+)" url));
  split = separator: text: filter builtins.isString (builtins.split separator text);

  tags = name:
    let
      parts = split "-" (head (match "(.*)\\.whl" name));
      count = length parts;
    in
    {
      python = split "\\." (elemAt parts (count - 3));
      abi = split "\\." (elemAt parts (count - 2));
      platform = split "\\." (elemAt parts (count - 1));
    };

  best = scores: foldl' (a: b: if b > a then b else a) (-1) scores;

  # Higher is better, -1 is unusable; the order of packaging.tags: interpreter and ABI first, then the platform.
  pythonScore = { python, abi, platform }:
    let
      has = builtins.elem;
      stable = name: let m = match "cp3([0-9]+)" name; in if m == null then -1 else builtins.fromJSON (head m);
      pure = name: let m = match "py3([0-9]+)" name; in if m == null then (if name == "py3" then 0 else -1) else builtins.fromJSON (head m);
      usable = value: if value > 12 then -1 else value;
    in
    if has "cp312" python && has "cp312" abi then 400
    else if has "abi3" abi then (let s = best (map (p: usable (stable p)) python); in if s < 0 then -1 else 300 + s)
    else if has "none" abi && has "cp312" python then 250
    else if has "none" abi then
      (let s = best (map (p: usable (pure p)) python); in if s < 0 then -1 else (if has "any" platform then 0 else 100) + s)
    else -1;

  # The glibc that the image and the shells have is 2.39 or newer; the newest tag below that wins, as it does for uv on such a host.
  glibc = 39;
  platformScore = platforms:
    let
      one = name:
        let m = match "manylinux_2_([0-9]+)_x86_64" name; v = if m == null then 0 else builtins.fromJSON (head m); in
        if name == "any" then 0
        else if name == "linux_x86_64" then 1
        else if name == "manylinux1_x86_64" then 5
        else if name == "manylinux2010_x86_64" then 12
        else if name == "manylinux2014_x86_64" then 17
        else if m != null && v <= glibc then v
        else -1;
    in
    best (map one platforms);

  score = wheel:
    let
      t = tags (fileName wheel.url);
      python = pythonScore t;
      platform = platformScore t.platform;
    in
    if python < 0 || platform < 0 then -1 else python * 100 + platform;

  pickWheel = package:
    let
      scored = map (wheel: { inherit wheel; value = score wheel; }) (package.wheels or [ ]);
      top = foldl' (a: b: if b.value > a.value then b else a) { value = -1; } scored;
    in
    if top.value >= 0 then top.wheel
    else package.sdist or (throw "uv.lock has no artifact of ${package.name} ${package.version} for this platform");

  fetch = artifact: derivation {
    name = fileName artifact.url;
    inherit system;
    builder = "builtin:fetchurl";
    inherit (artifact) url;
    urls = [ artifact.url ];
    executable = false;
    unpack = false;
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = head (match "sha256:([0-9a-f]{64})" artifact.hash);
    preferLocalBuild = true;
  };

  entries = map
    (package: rec {
      inherit (package) name version;
      artifact = pickWheel package;
      file = fileName artifact.url;
      source = fetch artifact;
    })
    lock.packages;

  attribute = entry: "${entry.name}-${replaceStrings [ "." "+" ] [ "_" "_" ] entry.version}";
in
{
  inherit entries;
  byAttribute = listToAttrs (map (entry: { name = attribute entry; value = entry.source; }) entries);

  # The wheel of a package in the version that the lock has under this name; refused where there are several.
  only = name:
    let found = filter (entry: entry.name == name) entries; in
    if length found == 1 then (head found).source
    else throw "uv.lock has ${toString (length found)} versions of ${name} in the index";

  picked = map (entry: { inherit (entry) name version file; hash = entry.artifact.hash; }) entries;
}
