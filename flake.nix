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
      made = each (
        system:
        import ./nix/lib.nix {
          inherit system;
          pkgs = pkgsOf system;
        }
      );
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
      lib = each (system: {
        inherit (made.${system})
          fromRecipe
          mkEngine
          mkHfModel
          mkOpenAIProxy
          mkTritonRepo
          mkTritonServerRuntime
          ;
      });

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

      formatter = each (system: (pkgsOf system).nixfmt-rfc-style);

      overlays.default = final: prev: {
        hermetic-engines = import ./nix/lib.nix {
          pkgs = final;
          system = final.stdenv.hostPlatform.system;
        };
      };

      nixosModules.default = import ./nix/module.nix self;
    };
}
