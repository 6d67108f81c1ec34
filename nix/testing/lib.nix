# Of nixpkgs' lib what is used here, under the same names and with the same meaning.
rec {
  inherit (builtins)
    concatMap
    elem
    genList
    isString
    listToAttrs
    mapAttrs
    ;

  concatStringsSep = builtins.concatStringsSep;
  concatMapStringsSep = separator: f: list: concatStringsSep separator (map f list);
  replaceStrings = builtins.replaceStrings;
  escapeShellArg = text: "'${replaceStrings [ "'" ] [ "'\\''" ] (toString text)}'";
  filterAttrs =
    wanted: set:
    listToAttrs (
      builtins.concatMap (
        name:
        if wanted name set.${name} then
          [
            {
              inherit name;
              value = set.${name};
            }
          ]
        else
          [ ]
      ) (builtins.attrNames set)
    );
  foldl' = builtins.foldl';
  genAttrs =
    names: f:
    listToAttrs (
      map (name: {
        inherit name;
        value = f name;
      }) names
    );
  hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
  hasSuffix =
    suffix: text:
    let
      length = builtins.stringLength text - builtins.stringLength suffix;
    in
    length >= 0 && builtins.substring length (builtins.stringLength suffix) text == suffix;
  init = list: genList (builtins.elemAt list) (builtins.length list - 1);
  makeLibraryPath = packages: concatMapStringsSep ":" (package: "${package}/lib") packages;
  mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (builtins.attrNames set));
  mapAttrsToList = f: set: map (name: f name set.${name}) (builtins.attrNames set);
  # What a module says, without the checks of modules.
  mkEnableOption = _: { };
  mkIf = condition: settings: if condition then settings else { };
  mkOption = option: option;
  types = {
    path = "path";
    port = "port";
    str = "str";
    nullOr = type: type;
  };
  nameValuePair = name: value: { inherit name value; };
  optional = condition: item: if condition then [ item ] else [ ];
  optionalAttrs = condition: set: if condition then set else { };
  optionalString = condition: text: if condition then text else "";
  recursiveUpdate =
    left: right:
    left
    // mapAttrs (
      name: value:
      if left ? ${name} && builtins.isAttrs left.${name} && builtins.isAttrs value then
        recursiveUpdate left.${name} value
      else
        value
    ) right;
  removePrefix =
    prefix: text:
    if hasPrefix prefix text then
      builtins.substring (builtins.stringLength prefix) (builtins.stringLength text) text
    else
      text;
  removeSuffix =
    suffix: text:
    if hasSuffix suffix text then
      builtins.substring 0 (builtins.stringLength text - builtins.stringLength suffix) text
    else
      text;
  splitString = separator: text: builtins.filter isString (builtins.split (escapeRegex separator) text);
  escapeRegex = replaceStrings [ "." "+" "*" "?" ] [ "[.]" "[+]" "[*]" "[?]" ];
  strings = {
    sanitizeDerivationName =
      text: concatStringsSep "-" (builtins.filter isString (builtins.split "[^a-zA-Z0-9+._?=-]+" text));
  };
  take = count: list: genList (builtins.elemAt list) (if count < builtins.length list then count else builtins.length list);
  unique = foldl' (found: item: if elem item found then found else found ++ [ item ]) [ ];
}
