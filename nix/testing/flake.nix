# A STAND-IN for nixpkgs, for tests: the few attributes that ../attributes.json lists, made of this machine's programs.
#
# hermetic/testing/nixpkgs.py copies this file into a folder beside what it is made of (bin, python, site, system, files,
# images), and that folder is given as `--override-input nixpkgs path:...`. Nothing in it is nixpkgs' code.
{
  description = "A STAND-IN for nixpkgs: this machine's Python, bubblewrap and uv, and files that were brought before";

  outputs =
    { self }:
    let
      lib = import ./lib.nix;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
    in
    {
      inherit lib;
      legacyPackages = builtins.listToAttrs (
        map (system: {
          name = system;
          value = import ./packages.nix { inherit lib self system; };
        }) systems
      );
    };
}
