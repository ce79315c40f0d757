//! API keys of clients, and admin keys of the HTTP API.

use std::collections::HashSet;

use super::check::Check;
use super::fault::KeyPath;
use super::file::{AdminFile, ApiKeyFile, ApiKeysFile, ConfigFile};
use super::rules::{api_key_use, host_pattern};
use crate::authz::api_key::{ApiKey, ApiKeys};
use crate::authz::claims::{Timestamp, fits_header};
use crate::clock::parse_rfc3339;
use crate::state::admin_key::AdminKey;

pub(super) fn api_keys(check: &mut Check<'_>, file: &ApiKeysFile) -> ApiKeys {
    let at = KeyPath::root().key("api_keys");
    let header = check.header(&at.key("header"), &file.header);
    let platform_header = check.header(&at.key("platform_header"), &file.platform_header);
    let (mut ids, mut digests) = (HashSet::new(), HashSet::new());
    let mut keys = Vec::new();
    for (index, file) in file.keys.iter().enumerate() {
        let at = at.key("keys").index(index);
        let key = api_key(check, &at, file);
        if !file.id.is_empty() && !ids.insert(&file.id) {
            check.fault(&at.key("id"), "another key has this id");
        }
        if !digests.insert(key.digest) && !file.sha256.0.is_empty() {
            check.fault(&at.key("sha256"), "another entry has this key: it must name one client");
        }
        keys.push(key);
    }
    ApiKeys::new(header, platform_header, api_key_use(file.default), keys)
}

fn api_key(check: &mut Check<'_>, at: &KeyPath, file: &ApiKeyFile) -> ApiKey {
    if !fits_header(&file.id) {
        check.fault(&at.key("id"), "must be printable ASCII: it is sent to the upstream in a header");
    }
    let digest = check.digest(&at.key("sha256"), &file.sha256);
    let platforms = file.platforms.clone().unwrap_or_default();
    if file.platforms.is_some() {
        check.list(&at.key("platforms"), &platforms, "; leave it out for any platform");
    }
    for (index, platform) in platforms.iter().enumerate() {
        check.no_wildcard(&at.key("platforms").index(index), platform, "for any platform leave `platforms` out");
        if !fits_header(platform) {
            check.fault(&at.key("platforms").index(index), "must be printable ASCII: it is compared with a header");
        }
    }
    let mut domains = Vec::new();
    if let Some(names) = &file.domains {
        check.list(&at.key("domains"), names, "; leave it out for any site");
        for (index, name) in names.iter().enumerate() {
            domains.extend(host_pattern(check, &at.key("domains").index(index), name));
        }
    }
    let expires_at = file.expires.as_ref().map(|text| {
        parse_rfc3339(text).unwrap_or_else(|| {
            check.fault(&at.key("expires"), "must be a time such as `2027-06-01T00:00:00Z` (RFC 3339)");
            Timestamp::MAX
        })
    });
    ApiKey { id: file.id.as_str().into(), digest, platforms, domains, expires_at }
}

/// Whether the operator's console is served: it needs a listener, and a key that may use it.
pub(super) fn console(check: &mut Check<'_>, file: &ConfigFile) -> bool {
    let at = KeyPath::root().key("console").key("enabled");
    if !file.console.enabled {
        return false;
    }
    if file.listen.http.is_none() && file.listen.admin.is_none() {
        check.fault(&at, "needs `listen.admin` or `listen.http`, where it is served");
    }
    if file.admin.keys.is_empty() {
        check.warn(&at, "nobody can sign in to the console: `admin.keys` is empty");
    }
    true
}

pub(super) fn admin_keys(check: &mut Check<'_>, file: &AdminFile) -> Vec<AdminKey> {
    let at = KeyPath::root().key("admin").key("keys");
    let (mut names, mut digests) = (HashSet::new(), HashSet::new());
    let mut keys = Vec::new();
    for (index, file) in file.keys.iter().enumerate() {
        let at = at.index(index);
        check.name(&at.key("name"), &file.name);
        if !file.name.is_empty() && !names.insert(&file.name) {
            check.fault(&at.key("name"), "another key has this name");
        }
        let digest = check.digest(&at.key("sha256"), &file.sha256);
        if !digests.insert(digest) && !file.sha256.0.is_empty() {
            check.fault(&at.key("sha256"), "another entry has this key: it must name one user");
        }
        check.list(&at.key("may"), &file.may, ": a key without permissions is useless");
        keys.push(AdminKey { name: file.name.as_str().into(), digest, may: file.may.clone() });
    }
    keys
}
