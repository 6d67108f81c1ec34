# What flake.nix offers for one system: packages, and functions to make more of them.
{
  pkgs,
  system,
  images ? builtins.fromJSON (builtins.readFile ./images.json),
  relaxed ? false,
}:
let
  inherit (pkgs) lib;
  driver = import ./stages.nix {
    inherit
      images
      pkgs
      relaxed
      system
      ;
  };
  read = file: builtins.fromJSON (builtins.readFile file);

  exportedTemplates = read ./templates.nix.json;
  base = exportedTemplates.stages.command.environment;
  # Without uv's wheel, whose program wants a loader that NixOS does not have; nixpkgs' own is on the command's PATH.
  templates = lib.recursiveUpdate exportedTemplates {
    environments.${base}.wheels = lib.mapAttrs (
      _: builtins.filter (wheel: wheel.name != "uv")
    ) exportedTemplates.environments.${base}.wheels;
  };
  fromTemplate =
    given: change:
    driver.stagesOf {
      graph = lib.recursiveUpdate templates change;
      root = ./.;
      inherit given;
    };
  # `recursiveUpdate` keeps what it is not told about: null stands for "as the template says".
  given = lib.filterAttrs (_: value: value != null);

  # The stages of an exported graph, by name. `root` is where the recipe's sources lie.
  fromRecipe =
    {
      export,
      root ? dirOf export,
      given ? { },
    }:
    let
      graph = read export;
      stages = driver.stagesOf { inherit given graph root; };
    in
    stages // lib.optionalAttrs (graph ? default) { default = stages.${graph.default}; };

  # A model of a Hub, by the entry of a lock file that `hermetic lock` wrote.
  mkHfModel =
    {
      hfModel,
      revision ? "main",
      lock ? ../recipes/qwen3.lock.json,
      files ? null,
    }:
    let
      uri = "hf://${hfModel}@${revision}";
      entry =
        (read lock).fixed.${uri}
          or (throw "${uri} is not locked: name it in a recipe with hub_snapshot, run hermetic lock, and give its lock");
      wanted = lib.filterAttrs (
        name: file: file ? sha256 && (files == null || builtins.elem name files)
      ) entry.files;
    in
    driver.fixedOf {
      name = baseNameOf hfModel;
      files = lib.mapAttrs (name: file: {
        inherit (file) sha256;
        url = "https://huggingface.co/${hfModel}/resolve/${entry.commit}/${name}";
      }) wanted;
    };

  # What `lock` pins under a name, or a folder: a path or a derivation.
  modelOf =
    { hfModel, ... }@wanted:
    if builtins.isString hfModel && !(lib.hasPrefix "/" hfModel) then mkHfModel wanted else hfModel;
  tokenizerFiles = [
    "added_tokens.json"
    "chat_template.jinja"
    "config.json"
    "generation_config.json"
    "merges.txt"
    "special_tokens_map.json"
    "tokenizer.json"
    "tokenizer.model"
    "tokenizer_config.json"
    "vocab.json"
  ];

  # How convert_checkpoint.py is told to quantise; it can do no other.
  weightOnly = {
    W8A16 = "int8";
    W4A16 = "int4";
  };

  # An engine of a checkpoint as a Hub has it, built by trtllm-bench and harvested when it hangs. With any of the three
  # arguments for experts it is converted and built by trtllm-build, since trtllm-bench has no options for them.
  mkEngine =
    {
      name,
      hfModel, # a name that `lock` pins, or a folder: a path or a derivation
      revision ? "main",
      lock ? ../recipes/qwen3.lock.json,
      quantization ? null,
      tensorParallelSize ? 1,
      pipelineParallelSize ? 1,
      maxBatchSize ? 8,
      maxSeqLen ? 16384,
      maxNumTokens ? 8192,
      gpu ? null, # { product; memory_gib; sm; count; }, as `hermetic doctor` prints it
      imageHash ? null, # sha256 of the archive that nixpkgs' pullImage makes of TensorRT-LLM's image
      moeTensorParallelSize ? null, # over how many ranks each expert's weights are split
      moeExpertParallelSize ? null, # over how many ranks the experts are dealt
      moePlugin ? null, # auto, float16, float32, bfloat16, int32 or disable
    }:
    let
      named = builtins.isString hfModel && !(lib.hasPrefix "/" hfModel);
      model = modelOf { inherit hfModel revision lock; };
      experts = given {
        moe_tp_size = moeTensorParallelSize;
        moe_ep_size = moeExpertParallelSize;
      };
      dealt =
        if moeTensorParallelSize == null || moeExpertParallelSize == null then
          tensorParallelSize
        else
          moeTensorParallelSize * moeExpertParallelSize;
      place = given { inherit gpu; };
      sizes = {
        max_batch_size = maxBatchSize;
        max_seq_len = maxSeqLen;
        max_num_tokens = maxNumTokens;
      };
      # Of any engine: the GPU's memory is a parameter, so that what cannot fit fails before it is built.
      engineOf = parameters: {
        parameters =
          lib.optionalAttrs (gpu != null) { device_gib = gpu.memory_gib; }
          // {
            quantisation = if quantization == null then "" else quantization;
          }
          // parameters;
        harvest.config = lib.optionalAttrs (quantization != null) {
          "pretrained_config.quantization.quant_algo" = quantization;
        };
      };
      changed = {
        engine =
          engineOf {
            model = if named then hfModel else name;
            options =
              sizes
              // {
                tp_size = tensorParallelSize;
                pp_size = pipelineParallelSize;
              }
              // lib.optionalAttrs (quantization != null) { inherit quantization; };
          }
          // place;
        expert_checkpoint = {
          parameters = {
            tp = tensorParallelSize;
            pp = pipelineParallelSize;
            options =
              experts
              // lib.optionalAttrs (quantization != null) {
                use_weight_only = true;
                weight_only_precision = weightOnly.${quantization};
              };
          };
        }
        // place;
        expert_engine =
          engineOf {
            options =
              sizes // { max_input_len = maxSeqLen; } // given { moe_plugin = moePlugin; };
          }
          // place;
      };
      stages = fromTemplate { "placeholder/model" = model; } {
        stages = changed;
        environments.${templates.stages.engine.environment} = lib.optionalAttrs (imageHash != null) {
          archives.${if system == "aarch64-linux" then "linux/arm64" else "linux/amd64"} = imageHash;
        };
      };
    in
    if experts == { } && moePlugin == null then
      stages.engine
    else if dealt != tensorParallelSize then
      throw "moeTensorParallelSize times moeExpertParallelSize must be tensorParallelSize, ${toString tensorParallelSize}"
    else if quantization != null && !(weightOnly ? ${quantization}) then
      throw "with arguments for experts quantization is W8A16 or W4A16, not ${quantization}: quantise in a recipe, with hermetic.llm.tensorrt_llm.Quantise, and take its engine with fromRecipe"
    else
      stages.expert_engine;

  # What Triton loads for an engine. From batchSchedulerPolicy on, for engines of the kind tensorrt-llm alone.
  mkTritonRepo =
    {
      engine,
      maxBatchSize ? null,
      maxSeqLen ? null,
      kvCacheGib ? null,
      kvCacheReuse ? null,
      enableChunkedContext ? null,
      batchSchedulerPolicy ? null, # guaranteed_no_evict or max_utilization
      kvCacheFreeGpuMemFraction ? null, # a number or its text: "0.85"
      decodingMode ? null, # as the backend calls it
      queueDelayUs ? null, # how long the first of a batch waits for others
      queueSize ? null, # how many requests may wait
      parameters ? { }, # any other of Triton's model tensorrt_llm, as text
    }:
    let
      textOf = value: if builtins.isString value then value else builtins.toJSON value;
      stages = fromTemplate { "placeholder/engine" = engine; } {
        stages.repository.parameters = given {
          max_batch_size = maxBatchSize;
          max_seq_len = maxSeqLen;
          kv_cache_gib = kvCacheGib;
          kv_cache_reuse = kvCacheReuse;
          chunked_context = enableChunkedContext;
          queue_delay_us = queueDelayUs;
          queue_size = queueSize;
          parameters =
            lib.mapAttrs (_: textOf) (given {
              batch_scheduler_policy = batchSchedulerPolicy;
              kv_cache_free_gpu_mem_fraction = kvCacheFreeGpuMemFraction;
              decoding_mode = decodingMode;
            })
            // parameters;
        };
      };
    in
    stages.repository;

  vouching = manifest: lib.optionalString (manifest != null) "--manifest ${manifest}";
  # Lines of a program that starts a server: whose tokenizer it is given.
  exportTokenizer =
    {
      tokenizerModel,
      revision,
      lock,
    }:
    let
      tokenizer = modelOf {
        hfModel = tokenizerModel;
        files = tokenizerFiles;
        inherit lock revision;
      };
    in
    ''
      tokenizer="''${TRTLLM_TOKENIZER_PATH:-${lib.optionalString (tokenizerModel != null) "${tokenizer}"}}"
      [ -z "$tokenizer" ] || export TOKENIZER_DIR="$tokenizer"
    '';

  # Engines of the kind tensorrt-llm have a file for each rank; others are not looked at.
  checkRanks = name: worldSize: ''
    engine="''${TRTLLM_ENGINE_PATH:-$HOME/.cache/trtllm-engines/${name}}"
    ranks=0
    for file in "$engine"/rank*.engine; do
      [ ! -e "$file" ] || ranks=$((ranks + 1))
    done
    if [ $ranks != 0 ] && [ $ranks != ${toString worldSize} ]; then
      echo "error: $engine has $ranks ranks, and worldSize is ${toString worldSize}" >&2
      exit 2
    fi
  '';

  # A program that starts Triton with the engine of TRTLLM_ENGINE_PATH, or ~/.cache/trtllm-engines/<name>.
  mkTritonServerRuntime =
    {
      name,
      tokenizerModel ? null, # as mkEngine's hfModel; without it the engine's own
      revision ? "main",
      lock ? ../recipes/qwen3.lock.json,
      httpPort ? 8000,
      grpcPort ? 8001,
      metricsPort ? 8002,
      worldSize ? null, # how many ranks the engine must have; how many it has it says itself
      manifest ? null, # what vouches for an engine that lies outside of Nix's store
    }:
    pkgs.writeShellScriptBin "tritonserver-${name}" ''
      export TRITON_HTTP_PORT="''${TRITON_HTTP_PORT:-${toString httpPort}}"
      export TRITON_GRPC_PORT="''${TRITON_GRPC_PORT:-${toString grpcPort}}"
      export TRITON_METRICS_PORT="''${TRITON_METRICS_PORT:-${toString metricsPort}}"
      ${exportTokenizer { inherit lock revision tokenizerModel; }}
      ${lib.optionalString (worldSize != null) (checkRanks name worldSize)}
      exec ${hermetic}/bin/hermetic serve triton ${lib.escapeShellArg name} ${vouching manifest} "$@"
    '';

  # A program that answers OpenAI's API in front of that Triton.
  mkOpenAIProxy =
    {
      name,
      tokenizerModel ? null, # the same as of its Triton
      revision ? "main",
      lock ? ../recipes/qwen3.lock.json,
      manifest ? null,
      port ? 9000,
      triton ? "localhost:\${TRITON_GRPC_PORT:-8001}",
    }:
    pkgs.writeShellScriptBin "openai-${name}" ''
      ${exportTokenizer { inherit lock revision tokenizerModel; }}
      exec ${hermetic}/bin/hermetic serve openai ${lib.escapeShellArg name} ${vouching manifest} \
        --triton "''${TRITON_GRPC_URL:-${triton}}" --port "''${OPENAI_PORT:-${toString port}}" "$@"
    '';

  # The command: its own sources, and the packages of requirements/base.txt by hash.
  environment = driver.environmentOf templates.environments.${base};
  source = builtins.path {
    name = "hermetic";
    path = ../.;
    filter =
      path: type:
      let
        name = baseNameOf path;
      in
      name != "__pycache__" && (path == toString ../hermetic || lib.hasPrefix "${toString ../hermetic}/" path);
  };
  hermetic = pkgs.writeShellScriptBin "hermetic" ''
    export PYTHONPATH=${source}:${environment.wheels}
    export LD_LIBRARY_PATH=${environment.libraries}''${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export PATH=${environment.wheels}/bin:${pkgs.bubblewrap}/bin:${pkgs.uv}/bin:$PATH
    exec ${environment.python}/bin/python3.11 -P -B -m hermetic "$@"
  '';

  # One engine of each recipe that was exported, named after it; not where a package has wheels for other systems alone.
  exported = lib.filterAttrs (
    name: _: lib.hasSuffix ".nix.json" name && runsHere (read (../recipes + "/${name}"))
  ) (builtins.readDir ../recipes);
  runsHere =
    export:
    builtins.all (
      environment: (environment.wheels or { }) == { } || environment.wheels ? ${system}
    ) (builtins.attrValues export.environments);
  recipes = lib.mapAttrs' (
    file: _:
    let
      name = lib.removeSuffix ".nix.json" file;
    in
    lib.nameValuePair name (fromRecipe { export = ../recipes + "/${file}"; })
  ) exported;
  engines = lib.mapAttrs' (
    name: stages: lib.nameValuePair (lib.replaceStrings [ "_" ] [ "-" ] name) stages.default
  ) recipes;
in
{
  inherit
    fromRecipe
    mkEngine
    mkHfModel
    mkOpenAIProxy
    mkTritonRepo
    mkTritonServerRuntime
    recipes
    ;

  packages = engines // {
    default = hermetic;
    inherit hermetic;
    tiny-engine = recipes.tiny_qwen3.engine;
    qwen3-32b-engine = recipes.qwen3.nvfp4_engine;
  };
  checks = {
    command = (fromTemplate { } { }).command;
    tiny-smoke = recipes.tiny_qwen3.smoke;
  };
}
