# uv.lock as data: its packages, and the refusal of names that it does not have.
{ uvLock }:
let
  lock = builtins.fromTOML (builtins.readFile uvLock);
  registry = builtins.filter (package: package.source ? registry) lock.package;
  names = builtins.listToAttrs (map (package: { inherit (package) name; value = true; }) lock.package);
in
{
  packages = registry;
  inherit names;

  # A misspelt name in a table would do nothing, silently: laziness never looks it up. Here it stops every evaluation.
  known = where: name:
    if names ? ${name} then name else throw "${where} names ${name}, which uv.lock does not have";

  hash = builtins.hashFile "sha256" uvLock;
}
