# One derivation of each stage of an exported graph (`hermetic nix export`, hermetic/nix/export.py).
#
# Everything that enters a derivation is named one by one: a program file, a source, a wheel. So a stage is built again
# when something of its own changes, and not when anything else in this repository does.
{
  pkgs,
  system,
  # The sha256 of pulled images' archives, by digest and platform.
  images ? { },
  # What a machine must have to build stages with a GPU; with `relaxed` the Nix sandbox is left out instead.
  gpuFeatures ? [ "cuda" ],
  relaxed ? false,
}:
let
  inherit (pkgs) lib;

  # The modules that a builder imports, and nothing else of hermetic. tests/nix holds the lists against the imports.
  modules = builtins.fromJSON (builtins.readFile ./builders.json);
  moduleSource =
    name:
    let
      wanted = modules.${name};
      folders = lib.unique (lib.concatMap parents wanted);
      top = toString ../.;
      inside = path: lib.removePrefix "${top}/" (toString path);
    in
    builtins.path {
      name = "hermetic-${name}";
      path = ../.;
      filter =
        path: type:
        if type == "directory" then
          builtins.elem (inside path) folders
        else
          builtins.elem (inside path) wanted;
    };
  parents =
    file:
    let
      parts = lib.init (lib.splitString "/" file);
    in
    lib.genList (count: lib.concatStringsSep "/" (lib.take (count + 1) parts)) (builtins.length parts);

  pythonOf = version: pkgs."python${lib.replaceStrings [ "." ] [ "" ] version}";
  commandOf = version: "python${version}";
  # nixpkgs' own version, whose packages its cache has. Which it is changes no result.
  builderPython = pkgs.python3.withPackages (packages: [
    packages.blake3
    packages.pydantic
    packages.rfc8785
  ]);

  # What manylinux lets a wheel find on the machine, and Nix's Python does not bring.
  libraries = lib.makeLibraryPath [
    pkgs.stdenv.cc.cc.lib
    pkgs.zlib
    pkgs.expat
  ];

  # A derivation that says why it cannot be built once it is built: who builds or only lists others never hears of it.
  refused =
    name: message:
    derivation {
      inherit message name system;
      builder = pkgs.runtimeShell;
      args = [
        "-c"
        "printf 'error: %s\\n' \"$message\" >&2; exit 1"
      ];
    };

  # A plain derivation: no set-up of stdenv that leaves files in /build, and nothing that "fixes" what a stage made.
  # Python finds its packages by the path that it is started with, and Nix starts a builder by its name alone.
  run =
    {
      name,
      module,
      spec ? null,
      extra ? { },
    }:
    derivation (
      {
        inherit name system;
        builder = pkgs.runtimeShell;
        args = [
          "-c"
          "exec ${builderPython}/bin/python3 -P -B -m hermetic.nix.${module}"
        ];
        PYTHONPATH = moduleSource module;
        PYTHONHASHSEED = "0";
        LC_ALL = "C.UTF-8";
      }
      // lib.optionalAttrs (spec != null) {
        spec = builtins.toJSON spec;
        passAsFile = [ "spec" ];
      }
      // extra
    );

  # The address is nixpkgs' affair: its helper knows it from the parts of the file's name.
  fetchWheel =
    wheel:
    let
      parts = lib.splitString "-" (lib.removeSuffix ".whl" wheel.file);
      built = builtins.length parts == 6;
      part = number: builtins.elemAt parts (if built then number + 1 else number);
    in
    pkgs.fetchPypi {
      pname = builtins.elemAt parts 0;
      version = builtins.elemAt parts 1 + lib.optionalString built "-${builtins.elemAt parts 2}";
      format = "wheel";
      dist = part 2;
      python = part 2;
      abi = part 3;
      platform = part 4;
      inherit (wheel) sha256;
    };

  wheelsOf =
    environment:
    let
      listed =
        environment.wheels.${system}
          or (throw "a package of this environment has no wheel for ${system}: choose another version in its lock");
      python = pythonOf environment.python;
    in
    if listed == [ ] then
      ""
    else
      run {
        name = "hermetic-wheels";
        module = "installing";
        spec = {
          python = "${python}/bin/${commandOf environment.python}";
          wheels = map (wheel: wheel // { path = "${fetchWheel wheel}"; }) listed;
        };
        extra = {
          PATH = "${pkgs.uv}/bin";
        };
      };

  imageOf =
    environment:
    let
      platform = if system == "aarch64-linux" then "linux/arm64" else "linux/amd64";
      digest =
        environment.digests.${platform}
          or (environment.digests.any or (throw "${environment.name} has no image for ${platform}"));
      hash = environment.archives.${platform} or (images.${digest}.${platform} or null);
    in
    if environment ? unresolved then
      refused "hermetic-image" environment.unresolved
    else if hash == null then
      refused "hermetic-image" (
        "nothing says yet which archive nixpkgs' pullImage makes of ${environment.name}@${digest} for ${platform}. "
        + "Where its registry can be asked, hermetic nix export RECIPE --archives pulls it once, with skopeo, and "
        + "writes that down; mkEngine takes imageHash"
      )
    else
      run {
        name = "hermetic-image";
        module = "unpacking";
        extra = {
          image = pkgs.dockerTools.pullImage {
            imageName = environment.name;
            imageDigest = digest;
            sha256 = hash;
            finalImageName = "image";
            finalImageTag = "pinned";
            os = "linux";
            arch = lib.removePrefix "linux/" platform;
          };
        };
      };

  environmentOf =
    environment:
    if environment.kind == "python" then
      {
        python = "${pythonOf environment.python}";
        wheels = "${wheelsOf environment}";
        inherit libraries;
        bwrap = "${pkgs.bubblewrap}/bin/bwrap"; # for a build without Nix's sandbox
        command = [
          "/build/env/python/bin/${commandOf environment.python}"
          "-P"
          "-B"
        ];
      }
    else
      {
        image = "${imageOf environment}";
        bwrap = "${pkgs.bubblewrap}/bin/bwrap";
        command = [
          environment.python
          "-B"
        ];
      };

  fixedOf =
    item:
    let
      fetch =
        name: file:
        if file.url == "" then
          throw "${name} lies where Nix has no fetcher for; bring it another way and name it as a source"
        else
          pkgs.fetchurl {
            name = lib.strings.sanitizeDerivationName (baseNameOf name);
            inherit (file) url sha256;
          };
      links =
        lib.mapAttrsToList (name: file: {
          inherit name;
          path = "${fetch name file}";
        }) item.files
        ++ lib.mapAttrsToList (name: content: {
          inherit name;
          path = "${builtins.toFile "text" content}";
        }) (item.texts or { });
    in
    if item ? unresolved then
      refused (lib.strings.sanitizeDerivationName item.name) item.unresolved
    else
      # Links, since a model is tens of gigabytes: its files stay the fixed outputs that they are.
      pkgs.linkFarm (lib.strings.sanitizeDerivationName item.name) links;
in
{
  inherit
    builderPython
    environmentOf
    fixedOf
    libraries
    pythonOf
    wheelsOf
    ;

  # `graph` is the parsed file, `root` the recipe's folder; `given` replaces inputs of the graph by name of the source or
  # fixed output ({ "tiny_qwen3/model" = ./elsewhere; }).
  stagesOf =
    {
      graph,
      root,
      given ? { },
    }:
    let
      environments = lib.mapAttrs (_: environmentOf) graph.environments;
      fixed = lib.mapAttrs (_: fixedOf) graph.fixed;
      sources = lib.mapAttrs (
        path: _:
        builtins.path {
          name = "source";
          path = root + "/${path}";
        }
      ) graph.sources;
      inputOf =
        input:
        if input ? stage then
          "${stages.${input.stage}}"
        else if input ? source then
          "${given.${input.source} or sources.${input.source}}"
        else
          "${given.${input.fixed} or fixed.${input.fixed}}" + lib.optionalString (input ? inside) "/${input.inside}";
      fileOf =
        file:
        builtins.path {
          name = lib.strings.sanitizeDerivationName file.name;
          path = if file ? hermetic then ../hermetic + "/${file.hermetic}" else root + "/${file.recipe}";
        };
      stages = lib.mapAttrs stage graph.stages;
      stage =
        name: described:
        let
          gpu = described.gpu or null;
          probe = {
            name = "gpu_probe.py";
            hermetic = "sandbox/gpu_probe.py";
          };
          program = described.program ++ lib.optional (gpu != null) probe;
        in
        run {
          inherit name;
          module = "building";
          spec =
            environments.${described.environment}
            // (described.limits or { })
            // {
              inherit name gpu;
              program = lib.listToAttrs (
                map (file: {
                  inherit (file) name;
                  value = "${fileOf file}";
                }) program
              );
              entry = (builtins.head program).name;
              parameters = described.parameters or { };
              inputs = lib.mapAttrs (_: inputOf) (described.inputs or { });
              harvest = described.harvest or null;
            };
          extra = lib.optionalAttrs (gpu != null) (
            if relaxed then { __noChroot = true; } else { requiredSystemFeatures = gpuFeatures; }
          );
        };
    in
    stages;
}
