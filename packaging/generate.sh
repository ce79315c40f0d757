#!/usr/bin/env bash
# Writes the manual pages and completions beside the binary in a folder, for the package:
#
#     packaging/generate.sh target/release
set -euo pipefail

dir=${1:?the folder of the binary}
"$dir/doorward" man --dir "$dir/man"
mkdir -p "$dir/completions"
"$dir/doorward" completions bash >"$dir/completions/doorward.bash"
"$dir/doorward" completions zsh >"$dir/completions/_doorward"
"$dir/doorward" completions fish >"$dir/completions/doorward.fish"
