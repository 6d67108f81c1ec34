{ pkgs, system }:
let
  inherit (pkgs) lib;
  driver = import ./stages.nix { inherit pkgs system; };
  fromRecipe =
    {
      export,
      root ? dirOf export,
    }:
    driver.stagesOf {
      graph = builtins.fromJSON (builtins.readFile export);
      inherit root;
    };
  tiny = fromRecipe { export = ../recipes/tiny_qwen3.nix.json; };
in
{
  packages = {
    tiny = tiny.engine;
    tiny-weights = tiny.weights;
  };
}
