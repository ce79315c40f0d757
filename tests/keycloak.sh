#!/usr/bin/env bash
# Runs a real Keycloak as a transmitter of security events and as a sender of logout tokens, against Doorward behind a real
# Envoy (tests/event_sources/keycloak.rs). It needs Java 17 or later and about 500 MB on the disk, and takes some minutes,
# so it is not part of tests/run.sh:
#
#     tests/keycloak.sh                          downloads the distribution from Maven Central, once
#     KEYCLOAK=~/keycloak-26.7.3 tests/keycloak.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=26.7.3
repository=${MAVEN_REPOSITORY:-https://repo1.maven.org/maven2}
export KEYCLOAK=${KEYCLOAK:-$PWD/.tools/keycloak-$version}
if [ ! -x "$KEYCLOAK/bin/kc.sh" ]; then
  mkdir -p .tools
  archive=keycloak-quarkus-dist-$version.tar.gz
  url=$repository/org/keycloak/keycloak-quarkus-dist/$version/$archive
  curl --fail --silent --show-error --location --output ".tools/$archive" "$url"
  sha1=$(curl --fail --silent --show-error --location "$url.sha1")
  echo "${sha1%% *}  .tools/$archive" | sha1sum --check --quiet
  tar --extract --gzip --file ".tools/$archive" --directory .tools
  rm ".tools/$archive"
fi
if [ -z "${ENVOY:-}" ]; then
  ENVOY=$(./envoy/get-envoy.sh 1.40.0)
  export ENVOY
fi
exec cargo test --test main event_sources::keycloak -- --ignored --nocapture --test-threads 1
