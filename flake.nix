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
      pkgsOf = system: nixpkgs.legacyPackages.${system};
      makeWith =
        relaxed:
        each (
          system:
          import ./nix/lib.nix {
            inherit relaxed system;
            pkgs = pkgsOf system;
          }
        );
      made = makeWith false;
      # The same for machines whose Nix gives its sandbox no GPU: nix build .#relaxed.NAME --option sandbox relaxed
      relaxed = makeWith true;
      functions = set: {
        inherit (set)
          fromRecipe
          mkEngine
          mkHfModel
          mkOpenAIProxy
          mkTritonRepo
          mkTritonServerRuntime
          ;
      };
      app = program: {
        type = "app";
        inherit program;
      };
    in
    {
      packages = each (system: made.${system}.packages);

      apps = each (system: {
        default = app "${made.${system}.packages.hermetic}/bin/hermetic";
        tritonserver-qwen3 = app "${
          made.${system}.mkTritonServerRuntime { name = "qwen3"; }
        }/bin/tritonserver-qwen3";
        openai-qwen3 = app "${made.${system}.mkOpenAIProxy { name = "qwen3"; }}/bin/openai-qwen3";
      });

      # By system: hermetic.lib.x86_64-linux.mkEngine { ... }.
      lib = each (system: functions made.${system} // { relaxed = functions relaxed.${system}; });

      legacyPackages = each (system: { relaxed = relaxed.${system}.packages; });

      checks = each (system: made.${system}.checks);

      devShells = each (system: {
        default = (pkgsOf system).mkShell {
          packages = [
            made.${system}.packages.hermetic
            (pkgsOf system).bubblewrap
            (pkgsOf system).uv
          ];
        };
      });

      formatter = each (system: (pkgsOf system).nixfmt-tree);

      overlays.default = final: prev: {
        hermetic-engines = import ./nix/lib.nix {
          pkgs = final;
          system = final.stdenv.hostPlatform.system;
        };
      };

      nixosModules.default = import ./nix/module.nix self;
    };
}
