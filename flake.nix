{
  description = "hermetic: reproducible builds of LLM engines";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      each = lib.genAttrs systems;
      libOf = system: import ./nix/lib.nix {
        inherit system;
        pkgs = nixpkgs.legacyPackages.${system};
      };
    in
    {
      packages = each (system: (libOf system).packages);
    };
}
