# services.hermetic: Triton with an engine, and OpenAI's API in front of it, as hardened systemd services.
self:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.hermetic;
  made = self.lib.${pkgs.stdenv.hostPlatform.system};
  # TensorRT and CUDA map memory that is written and executed, so MemoryDenyWriteExecute stays off. Bubblewrap makes
  # namespaces and mounts a /proc, which the kernel refuses where something lies over the one it sees: so no
  # RestrictNamespaces, and neither ProtectKernelTunables nor ProtectKernelLogs (who is not root may not write there).
  hardened = {
    CapabilityBoundingSet = "";
    LockPersonality = true;
    NoNewPrivileges = true;
    PrivateTmp = true;
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHome = "read-only";
    ProtectHostname = true;
    ProtectKernelModules = true;
    ProtectSystem = "strict";
    RemoveIPC = true;
    RestrictAddressFamilies = [
      "AF_INET"
      "AF_INET6"
      "AF_NETLINK" # bubblewrap's loopback
      "AF_UNIX"
    ];
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = "~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap";
    UMask = "0077";
  };
  common = {
    Type = "notify"; # a service is there once it answers
    TimeoutStartSec = 1800; # wheels are brought once, and large engines read
    Restart = "on-failure";
    User = cfg.user;
    Group = cfg.group;
    CacheDirectory = "hermetic";
    RuntimeDirectory = "hermetic";
    RuntimeDirectoryPreserve = true; # both services have it
    StateDirectory = "hermetic";
  };
  variables = {
    HERMETIC_STORE = "/var/lib/hermetic/store";
    HOME = "/var/lib/hermetic";
    XDG_CACHE_HOME = "/var/cache/hermetic";
    XDG_RUNTIME_DIR = "/run/hermetic";
  };
  # Both services are shown the same engine.
  shown = {
    TRTLLM_ENGINE_PATH = toString cfg.engine;
  }
  // lib.optionalAttrs (cfg.tokenizer != null) { TRTLLM_TOKENIZER_PATH = toString cfg.tokenizer; };
in
{
  options.services.hermetic = {
    enable = lib.mkEnableOption "serving an engine with Triton";
    name = lib.mkOption {
      type = lib.types.str;
      example = "qwen3";
      description = "What the model is called.";
    };
    engine = lib.mkOption {
      type = lib.types.path;
      description = "The engine's folder: a package of this flake, or any other path.";
    };
    tokenizer = lib.mkOption {
      type = lib.types.nullOr lib.types.path;
      default = null;
      description = "The tokenizer's folder; null for the engine's own.";
    };
    manifest = lib.mkOption {
      type = lib.types.nullOr lib.types.path;
      default = null;
      description = "What vouches for the engine: a manifest.json or its folder; null for the engine's own, or Nix.";
    };
    httpPort = lib.mkOption {
      type = lib.types.port;
      default = 8000;
      description = "Triton's HTTP port.";
    };
    grpcPort = lib.mkOption {
      type = lib.types.port;
      default = 8001;
      description = "Triton's gRPC port.";
    };
    metricsPort = lib.mkOption {
      type = lib.types.port;
      default = 8002;
      description = "The port of Triton's metrics.";
    };
    openai = {
      enable = lib.mkEnableOption "OpenAI's API in front of Triton";
      port = lib.mkOption {
        type = lib.types.port;
        default = 9000;
        description = "The port of OpenAI's API.";
      };
    };
    user = lib.mkOption {
      type = lib.types.str;
      default = "hermetic";
      description = "The user that both services run as.";
    };
    group = lib.mkOption {
      type = lib.types.str;
      default = "hermetic";
      description = "The group that both services run as.";
    };
  };

  config = lib.mkIf cfg.enable {
    users.users = lib.mkIf (cfg.user == "hermetic") {
      hermetic = {
        isSystemUser = true;
        inherit (cfg) group;
      };
    };
    users.groups = lib.mkIf (cfg.group == "hermetic") { hermetic = { }; };

    systemd.services.hermetic-triton = {
      description = "Triton with the engine ${cfg.name}";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ]; # the server's wheels are brought once
      after = [ "network-online.target" ];
      path = [ config.nix.package ]; # which vouches for an engine in Nix's store
      environment = variables // shown;
      serviceConfig =
        common
        // hardened
        // {
          ExecStart = "${
            made.mkTritonServerRuntime { inherit (cfg) name httpPort grpcPort metricsPort manifest; }
          }/bin/tritonserver-${cfg.name}";
          TimeoutStopSec = 60; # running requests may end
        };
    };

    systemd.services.hermetic-openai = lib.mkIf cfg.openai.enable {
      description = "OpenAI's API for ${cfg.name}";
      wantedBy = [ "multi-user.target" ];
      wants = [ "hermetic-triton.service" ];
      after = [ "hermetic-triton.service" ];
      path = [ config.nix.package ];
      environment = variables // shown;
      serviceConfig =
        common
        // hardened
        // {
          ExecStart = "${
            made.mkOpenAIProxy {
              inherit (cfg) manifest name;
              inherit (cfg.openai) port;
              triton = "localhost:${toString cfg.grpcPort}";
            }
          }/bin/openai-${cfg.name}";
        };
    };
  };
}
