{
  lib,
  self,
  system,
}:
let
  # A derivation whose builder is a static shell.
  shell =
    name: script: more:
    derivation (
      {
        inherit name system;
        builder = "${self}/bin/sh";
        args = [
          "-euc"
          script
        ];
        PATH = "${self}/bin";
      }
      // more
    );

  # A program of this machine runs under its own loader, since a sandbox has no /lib64.
  start =
    program:
    "exec ${self}/system/ld-linux-*.so.* --library-path ${self}/system --argv0 \"$0\" ${program} \"$@\"";
  wrapped =
    name:
    shell name ''
      mkdir -p $out/bin
      printf '#!${self}/bin/sh\n%s\n' '${start "${self}/programs/${name}"}' > $out/bin/${name}
      chmod +x $out/bin/${name}
    '' { };

  version = builtins.replaceStrings [ "\n" ] [ "" ] (builtins.readFile ./version);
  patchelf = "${wrapped "patchelf"}/bin/patchelf";
  # As nixpkgs has it: an ELF program whose loader and libraries lie in Nix's store. With `site` they are found by that
  # folder's modules too, which are wheels here and not built against them.
  pythonWith =
    site:
    shell "python3" ''
      mkdir -p $out/bin $out/lib/python${version}
      cp ${self}/system/*.so* $out/lib
      cp ${self}/python/bin/python${version} $out/bin
      ln -s python${version} $out/bin/python3
      ln -s ${self}/python/lib/python${version}/* $out/lib/python${version}
      rm $out/lib/python${version}/lib-dynload
      cp -r ${self}/python/lib/python${version}/lib-dynload $out/lib/python${version}
      chmod -R u+w $out
      chmod 755 $out/bin/python${version} $out/lib/ld-linux*
      ${patchelf} --set-interpreter $out/lib/ld-linux*.so.2 $out/bin/python${version}
      for file in $out/bin/python${version} $out/lib/libpython* $out/lib/python${version}/lib-dynload/*; do
        [ ! -f $file ] || ${patchelf} ${lib.optionalString site "--force-rpath"} --set-rpath $out/lib $file
      done
      ${lib.optionalString site "ln -s ${self}/site $out/lib/python${version}/site-packages"}
    '' { };
  # As there, what it has besides itself it finds by the path that it is started with.
  python = pythonWith false // {
    withPackages = _: pythonWith true;
  };

  brought =
    name: sha256:
    shell name "cp ${self}/files/${sha256} $out" {
      outputHash = sha256;
      outputHashAlgo = "sha256";
      outputHashMode = "flat";
    };
  writeScript =
    name: text:
    shell name ''
      mkdir -p $out/bin
      printf '%s' "$text" > $out/bin/${name}
      chmod +x $out/bin/${name}
    '' { inherit text; };
in
{
  inherit lib;
  stdenv = {
    cc.cc.lib = "${self}/manylinux";
    hostPlatform = { inherit system; };
  };
  zlib = "${self}/manylinux";
  expat = "${self}/manylinux";
  uv = wrapped "uv";
  bubblewrap = wrapped "bwrap";
  bash = "${self}";
  runtimeShell = "${self}/bin/sh";
  coreutils = "${self}";
  nixfmt-tree = writeScript "nixfmt-tree" "#!${self}/bin/sh\necho a stand-in formats nothing\n";

  fetchurl =
    {
      name ? baseNameOf url,
      url,
      sha256,
    }:
    brought name sha256;
  fetchPypi =
    {
      pname,
      version,
      format,
      dist,
      python,
      abi,
      platform,
      sha256,
    }:
    brought "${pname}-${version}-${python}-${abi}-${platform}.whl" sha256;
  dockerTools.pullImage =
    { imageDigest, sha256, ... }:
    shell "image.tar" "cp ${self}/images/${lib.removePrefix "sha256:" imageDigest}.tar $out" {
      outputHash = sha256;
      outputHashAlgo = "sha256";
      outputHashMode = "flat";
    };

  runCommand = name: more: script: shell name script more;
  stdenvNoCC.mkDerivation = { name, buildCommand, ... }@given: shell name buildCommand (removeAttrs given [ "buildCommand" "name" ]);
  mkShell = given: shell "shell" "mkdir $out" { };
  linkFarm =
    name: entries:
    shell name (
      "mkdir $out\n"
      + lib.concatMapStringsSep "\n" (entry: ''
        mkdir -p $out/"$(dirname ${lib.escapeShellArg entry.name})"
        ln -s ${entry.path} $out/${lib.escapeShellArg entry.name}
      '') entries
    ) { };
  writeShellScriptBin = name: text: writeScript name "#!${self}/bin/sh\n${text}";
  writeText = name: text: shell name "printf '%s' \"$text\" > $out" { inherit text; };
  "python${lib.replaceStrings [ "." ] [ "" ] version}" = python;
  python3 = python;
}
