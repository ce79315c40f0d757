use crate::authz::answer::{IdentityField, PayloadProfile, TokenField};
use crate::state::admin_key::Permission;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::authz::claims::{ClaimPath, Timestamp};
use crate::authz::jwks::Algorithm;
use crate::authz::revocation::Kind;
use crate::authz::rule::{Access, ApiKeyUse, HostPattern, OnStale, PathMatch, SignOut, Then};
use crate::authz::token::Audiences;
use crate::authz::token_source::TokenSource;
use crate::sources::jwks::Location;

mod environment;
mod faults;
mod issuers;
mod rules;
mod sections;

/// One issuer on one line, so that a test's own part begins on line 2.
const ISSUER: &str =
    "issuers: [{name: main, issuer: https://a.test, audiences: [shop], keys: {jwks_url: https://a.test/jwks}}]\n";

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/testdata")
}

fn parse(text: &str) -> Result<Loaded, Faults> {
    Config::parse(text, "c.yaml", &testdata(), std::iter::empty())
}

#[track_caller]
fn good(text: &str) -> Loaded {
    parse(text).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

#[track_caller]
fn config(more: &str) -> Config {
    good(&format!("{ISSUER}{more}")).config
}

#[test]
fn the_example_of_the_specification_loads() {
    let file = testdata().join("example.yaml");
    let Loaded { config, warnings } =
        Config::load(&file, std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(warnings, []);
    assert!(config.watched_files().keys().eq([&file]));

    let issuer = &config.issuers[0];
    assert_eq!(issuer.trusted.name.as_str(), "main");
    assert!(issuer.trusted.issuer.name("https://auth.example.com").is_some());
    assert_eq!(issuer.trusted.algorithms, [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]);
    assert_eq!(issuer.trusted.claim_names.client_id, [ClaimPath::new("azp"), ClaimPath::new("client_id")]);
    assert!(matches!(&issuer.trusted.audiences, Audiences::OneOf(list) if *list == ["shop"]));
    assert!(matches!(&issuer.trusted.logout.audiences, Audiences::OneOf(list) if *list == ["shop-web"]));
    assert!(issuer.trusted.keys.is_none());
    let KeySource::Fetched(keys) = &issuer.keys else { panic!("{:?}", issuer.keys) };
    assert_eq!(keys.location, Location::Url("https://auth.example.com/jwks".to_owned()));
    assert_eq!((keys.cooldown, keys.max_stale), (Duration::from_secs(30), Duration::from_secs(86_400)));
    assert_eq!(config.retention, Duration::from_secs(86_460));

    let bearer = TokenSource::Header { name: "authorization".to_owned(), scheme: Some("Bearer".to_owned()) };
    assert_eq!((config.token.settings.from, config.token.settings.max_bytes), (vec![bearer], 16384));
    assert_eq!(config.identity.headers[0], ("x-user-email".to_owned(), IdentityField::Token(TokenField::Email)));
    assert_eq!(
        config.identity.payload,
        Some(Payload { header: "x-identity".to_owned(), signer: None, profile: PayloadProfile::Identity })
    );

    let accesses: Vec<_> = config.rules.iter().map(|rule| (rule.name.as_ref(), rule.access)).collect();
    let sign_out = Access::SignOut(SignOut { scope: Kind::Token, then: Then::Forward });
    let expected = [("health", Access::Public), ("login", Access::Public), ("refresh", Access::Refresh)];
    assert_eq!(accesses, [&expected[..], &[("logout", sign_out), ("admin", Access::Protected)]].concat());
    let admin = &config.rules[4];
    assert!(matches!(&admin.matches.as_ref().unwrap().path, PathMatch::Prefix(prefix) if prefix == "/admin"));
    assert_eq!(admin.require.claims["role"], [json!("owner"), json!("admin")]);
    assert_eq!(admin.require.max_age, Some(Duration::from_secs(900)));
    assert_eq!((admin.api_key, admin.on_stale, admin.enforce), (Some(ApiKeyUse::Required), Some(OnStale::Deny), true));

    let Store::Redis { server: redis, .. } = &config.revocation.store else { panic!("{:?}", config.revocation.store) };
    assert_eq!((redis.url.as_str(), redis.key_prefix.as_str()), ("redis://127.0.0.1:6379/0", "doorward:"));
    assert_eq!(config.max_staleness, Duration::from_secs(30));
    assert_eq!(config.admin_keys[0].may, [Permission::Revoke, Permission::Read]);
}

#[test]
fn omitted_keys_have_the_documented_defaults() {
    let (shortest, example) = (config(""), good(include_str!("testdata/example.yaml")).config);
    assert_eq!(shortest.listen, example.listen);
    assert_eq!(shortest.revocation, example.revocation);
    assert_eq!(shortest.errors, example.errors);
    assert_eq!(shortest.telemetry, example.telemetry);
    assert_eq!(shortest.limits, example.limits);
    assert_eq!(shortest.identity.headers, example.identity.headers);
    assert_eq!(shortest.token.settings.from, example.token.settings.from);
    assert_eq!(shortest.issuers[0].trusted.algorithms, crate::authz::jwks::ASYMMETRIC);
    assert_eq!(shortest.needs_restart(&example), Vec::<&str>::new());
}

#[test]
fn values_become_what_the_decision_needs() {
    let rules = config(
        "rules:\n- {name: a, match: {path_prefix: /a/, hosts: ['*.Shop.test'], methods: [GET]}, access: sign_out, sign_out: {scope: user, then: respond}}\n- {name: b, match: {path_regex: '/b/[0-9]+|/c'}, enforce: false}\n- {name: c, match: {path_prefix: /}}\n- {name: d}\n",
    )
    .rules;
    let matches = |at: usize| rules[at].matches.as_ref().unwrap();
    assert!(matches!(&matches(0).path, PathMatch::Prefix(prefix) if prefix == "/a"));
    assert_eq!(matches(0).hosts, [HostPattern::Subdomains("shop.test".to_owned())]);
    assert_eq!(rules[0].access, Access::SignOut(SignOut { scope: Kind::User, then: Then::Respond }));
    let PathMatch::Regex(regex) = &matches(1).path else { panic!("{:?}", matches(1)) };
    assert!(regex.is_match("/b/1") && regex.is_match("/c") && !regex.is_match("/b/1/x") && !regex.is_match("/x/c"));
    assert!(matches!(matches(2).path, PathMatch::Any));
    assert!(rules[3].matches.is_none());

    let identity = config("identity: {headers: {X-Roles: 'claim:/realm/roles', x-client: api_client}}\n").identity;
    let roles = IdentityField::Claim(ClaimPath::new("/realm/roles"));
    assert!(identity.headers.contains(&("x-roles".to_owned(), roles)));

    let listen = config("listen: {check: 'unix:/run/doorward/check.sock', mode: 0600, http: null}\n").listen;
    let path = PathBuf::from("/run/doorward/check.sock");
    assert_eq!((listen.check, listen.http), (CheckAddress::Unix { path, mode: 0o600 }, None));

    let tokens = config("token: {from: [{header: X-Token}, {cookie: session}, {query: t}]}\n").token.settings.from;
    let header = TokenSource::Header { name: "x-token".to_owned(), scheme: None };
    assert_eq!(tokens, [header, TokenSource::Cookie("session".to_owned()), TokenSource::Query("t".to_owned())]);
}

#[test]
fn instants_are_read_with_their_offset() {
    let read = |text| crate::clock::parse_rfc3339(text).map(Timestamp::as_secs);
    assert_eq!(read("2027-06-01T00:00:00Z"), Some(1_811_808_000));
    assert_eq!(read("2027-06-01t00:00:00z"), Some(1_811_808_000));
    assert_eq!(read("2027-06-01T02:00:00+02:00"), Some(1_811_808_000));
    assert_eq!(read("2027-05-31T18:30:00.5-05:30"), Some(1_811_808_000));
    for bad in
        ["", "2027-06-01", "2027-06-01T00:00:00", "2027-06-01T00:00:00+2:00", "2027-06-01T00:00:00+0200", "never"]
    {
        assert_eq!(read(bad), None, "{bad}");
    }
}

#[test]
fn keys_and_secrets_are_loaded_from_files_and_watched() {
    let text = "issuers:\n- {name: a, issuer: a, audiences: any, keys: {jwks_file: keys.json}}\n- {name: b, issuer: b, audiences: any, keys: {secret_file: secret-64}, algorithms: [HS512]}\nrevocation: {redis: {username: u, password_file: password}}\n";
    let Loaded { config, warnings } = good(text);
    assert_eq!(config.issuers[0].trusted.keys.as_ref().map(crate::authz::jwks::Jwks::len), Some(1));
    assert_eq!(config.issuers[1].trusted.keys.as_ref().map(crate::authz::jwks::Jwks::len), Some(1));
    assert_eq!(config.issuers[1].trusted.algorithms, [Algorithm::HS512]);
    let names: Vec<_> = config.watched_files().keys().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["keys.json", "password", "secret-64"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].line("c.yaml").contains("c.yaml:2: issuers[0].keys.jwks_file: a key is left out: secret"));
    let Store::Redis { server: redis, .. } = config.revocation.store else { panic!() };
    assert_eq!(secrecy::ExposeSecret::expose_secret(&redis.password.unwrap()), "correct horse"); // No newline.
}

#[test]
fn credentials_in_the_url_of_redis_are_taken_out() {
    let config = config(
        "revocation: {redis: {url: 'rediss-sentinel://us%2Fer:p%40ss+w@r.test:6380/1?sentinelServiceName=m&sentinelPassword=hush'}}\n",
    );
    let Store::Redis { server: redis, .. } = &config.revocation.store else { panic!() };
    assert_eq!(redis.url.as_str(), "rediss-sentinel://r.test:6380/1?sentinelServiceName=m&sentinelPassword=hush");
    assert_eq!(redis.username.as_deref(), Some("us/er"));
    assert_eq!(redis.password.as_ref().map(secrecy::ExposeSecret::expose_secret), Some("p@ss+w"));
    let shown = format!("{:?}", config.revocation);
    assert!(!shown.contains("p@ss") && !shown.contains("hush"), "{shown}");
}

#[test]
fn the_stores_of_other_regions_have_credentials_of_their_own() {
    let config = config(
        "revocation: {redis: {password_file: password, key_prefix: 'a:', relay: ['rediss://u:p%40ss@us.test:6380/1', {url: 'redis://ap.test', username: v, password_file: secret-16, key_prefix: 'b:'}]}}\n",
    );
    let Store::Redis { relay, .. } = &config.revocation.store else { panic!() };
    let read = |at: usize| {
        let password = relay[at].password.as_ref().map(secrecy::ExposeSecret::expose_secret);
        (&*relay[at].url, relay[at].username.as_deref(), password, &*relay[at].key_prefix)
    };
    assert_eq!(read(0), ("rediss://us.test:6380/1", Some("u"), Some("p@ss"), "a:"));
    assert_eq!((read(1).0, read(1).1, read(1).3), ("redis://ap.test", Some("v"), "b:"));
    assert!(read(1).2.is_some_and(|password| password != "correct horse"));
    assert!(!format!("{:?}", config.revocation).contains("p@ss"));
}

#[test]
fn unlikely_settings_are_warned_of() {
    for (more, expected) in [
        ("rules: [{name: a, match: {path: /a}, access: public, on_stale: deny}]\n", "rules[0].on_stale: has no effect"),
        ("api_keys: {default: required}\nrules: [{name: a}]\n", "rules[0]: every request is refused"),
        ("revocation: {embedded: {path: x}}\n", "revocation.embedded: has no effect"),
        ("revocation: {store: embedded}\n", "revocation.embedded.path: is missing"),
        ("revocation: {store: embedded, embedded: {path: null}}\n", "revocation.embedded.path: is missing"),
        (
            "revocation: {store: embedded, embedded: {path: x}, redis: {min_replicas: 1}}\n",
            "revocation.redis: has no effect",
        ),
    ] {
        let warnings = good(&format!("{ISSUER}{more}")).warnings;
        assert!(warnings.len() == 1 && warnings[0].line("c").contains(expected), "{warnings:?}");
    }
    let empty = "issuers: [{name: a, issuer: a, audiences: any, keys: {jwks: {keys: []}}}]\n";
    assert!(good(empty).warnings[0].message.starts_with("no key is usable"));
}

#[test]
fn settings_that_need_a_restart_are_named_and_kept() {
    let started = config("");
    for (more, expected) in [
        ("revocation: {max_staleness: 5s, on_stale: allow}\n", &[][..]),
        ("telemetry: {log: {decisions: all}}\nerrors: {realm: x}\n", &[]),
        ("listen: {http: null}\nlimits: {list_page: 9}\n", &["listen.http", "limits.list_page"]),
        ("revocation: {list: allow, read: lookup}\n", &["revocation.list", "revocation.read"]),
        ("revocation: {redis: {min_replicas: 1}}\n", &["revocation.redis"]),
        ("revocation: {store: embedded, list: allow}\n", &["revocation.list", "revocation.store"]),
        ("telemetry: {log: {level: debug, decisions: all}}\n", &["telemetry.log.level"]),
    ] {
        let next = config(more);
        assert_eq!(next.needs_restart(&started), expected, "{more}");
        let kept = next.until_restart(&started);
        let freshness = kept.authorizer().freshness;
        assert_eq!((freshness.allow_list, freshness.always_lookup), (false, false), "{more}");
        assert_eq!(kept.needs_restart(&started), Vec::<&str>::new());
    }
    let longer = good(&ISSUER.replace("name:", "max_lifetime: 48h, name:")).config;
    assert_eq!(longer.needs_restart(&started), Vec::<&str>::new());
    assert_eq!(longer.until_restart(&started).retention, Duration::from_secs(2 * 86_400 + 60));
}

/// A key is not named for its text alone, and a file not passed over for its name.
#[test]
fn only_a_change_with_an_effect_needs_a_restart() {
    let inline = config("revocation: {redis: {password: 'correct horse'}}\n");
    for (more, expected) in [
        ("revocation: {redis: {password_file: password}}\n", &[][..]),
        ("revocation: {redis: {password: other}}\n", &["revocation.redis"]),
        ("revocation: {redis: {password: 'correct horse'}, embedded: {path: x}}\n", &[]),
        ("revocation: {redis: {password: 'correct horse'}}\nlisten: {mode: '0600', http: '127.0.0.1:9192'}\n", &[]),
    ] {
        let next = good(&format!("{ISSUER}{more}")).config;
        assert_eq!(next.needs_restart(&inline), expected, "{more}");
    }
    let folder = std::env::temp_dir().join(format!("doorward-restart-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let read = |password: &str| {
        std::fs::write(folder.join("password"), password).unwrap();
        let text = format!("{ISSUER}revocation: {{redis: {{password_file: password}}}}\n");
        Config::parse(&text, "c.yaml", &folder, std::iter::empty()).unwrap().config
    };
    let (old, new) = (read("old"), read("new"));
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(new.needs_restart(&old), ["revocation"]);
}

/// The parts of a configuration with settings that need a restart, or stand beside such a setting.
fn usable(config: &Config) -> impl Debug + PartialEq {
    let Config { listen, console, revocation, telemetry, limits, .. } = config.clone();
    let Config { decision_log, accept_loss, max_staleness, on_stale, retention, .. } = *config;
    (listen, console, revocation, telemetry, limits, (decision_log, accept_loss, max_staleness, on_stale, retention))
}

/// The keys that are marked with `x-restart` are exactly those whose old value is kept and that are named.
#[test]
fn what_is_marked_needs_a_restart_and_nothing_else_does() {
    let (started, schema) = (config(""), schema());
    let properties = |name: &str| schema["$defs"][name]["properties"].as_object().unwrap().clone();
    let is_marked = |property: &Value| property.get("x-restart").is_some_and(|mark| *mark == true);
    let limits = properties("Limits").into_iter().map(|(key, property)| {
        let other = property["default"].as_u64().map_or("7s".to_owned(), |default| (default + 1).to_string());
        ("limits", key, property, other)
    });
    let others = [
        ("listen", "ListenFile", "check", "127.0.0.1:1"),
        ("listen", "ListenFile", "mode", "'0600'"),
        ("listen", "ListenFile", "http", "127.0.0.1:1"),
        ("listen", "ListenFile", "admin", "127.0.0.1:1"),
        ("listen", "ListenFile", "cors_origins", "[https://a.test]"),
        ("revocation", "RevocationFile", "store", "embedded"),
        ("revocation", "RevocationFile", "embedded", "{path: x}"),
        ("revocation", "RevocationFile", "redis", "{min_replicas: 1}"),
        ("revocation", "RevocationFile", "list", "allow"),
        ("revocation", "RevocationFile", "read", "lookup"),
        ("revocation", "RevocationFile", "max_staleness", "5s"),
        ("revocation", "RevocationFile", "on_stale", "allow"),
        ("revocation", "RevocationFile", "allow_eviction", "true"),
        ("revocation", "RevocationFile", "accept_loss", "true"),
        ("console", "ConsoleFile", "enabled", "true"),
        ("telemetry", "TelemetryFile", "otlp", "{endpoint: 'http://a.test'}"),
        ("telemetry", "TelemetryFile", "replay_alarm", "{url: 'https://a.test'}"),
        ("telemetry.log", "LogFile", "format", "text"),
        ("telemetry.log", "LogFile", "level", "debug"),
        ("telemetry.log", "LogFile", "decisions", "all"),
    ];
    let others = others.map(|(section, name, key, other)| {
        let mut property = properties(name)[key].clone();
        if ["listen", "console"].contains(&section) {
            property["x-restart"] = schema["properties"][section]["x-restart"].clone();
        }
        (section, key.to_owned(), property, other.to_owned())
    });
    let mut seen = 0;
    for (section, key, property, other) in limits.chain(others) {
        // Alone these keys have no effect, because the feature that they configure is not chosen.
        let (before, more) = match key.as_str() {
            "mode" => ("listen: {check: 'unix:/run/a'}\n", "check: 'unix:/run/a', "),
            "embedded" => ("revocation: {store: embedded}\n", "store: embedded, "),
            _ => ("", ""),
        };
        let started = if before.is_empty() { started.clone() } else { config(before) };
        let text = match section.split_once('.') {
            Some((outer, inner)) => format!("{outer}: {{{inner}: {{{key}: {other}}}}}\n"),
            None => format!("{section}: {{{more}{key}: {other}}}\n"),
        };
        let next = config(&text);
        let named = if is_marked(&property) { vec![format!("{section}.{key}")] } else { Vec::new() };
        assert_eq!(next.needs_restart(&started), named, "{text}");
        let kept = next.clone().until_restart(&started);
        assert_eq!(kept.needs_restart(&started), Vec::<String>::new(), "{text}");
        assert_eq!(usable(&kept), usable(if is_marked(&property) { &started } else { &next }), "{text}");
        seen += 1;
    }
    // No section but these has such keys.
    let marks = serde_json::to_string(&schema).unwrap().matches("\"x-restart\":true").count();
    let expected = ["Limits", "RevocationFile", "TelemetryFile", "LogFile"];
    let in_sections: usize =
        expected.iter().map(|name| properties(name).values().filter(|p| is_marked(p)).count()).sum();
    assert_eq!(marks, in_sections + 2, "the whole of `listen` and of `console`, and these");
    assert!(seen > 45, "{seen}");
}

#[test]
fn the_schema_describes_every_key() {
    let schema = schema();
    let mut undescribed = Vec::new();
    for (name, section) in schema["$defs"].as_object().unwrap() {
        for (key, property) in section["properties"].as_object().into_iter().flatten() {
            if property.get("description").is_none() {
                undescribed.push(format!("{name}.{key}"));
            }
        }
    }
    assert_eq!(undescribed, Vec::<String>::new());
    assert_eq!(schema["$defs"]["RevocationFile"]["properties"]["max_staleness"]["default"], "30s");
}

#[test]
fn the_description_of_identity_headers_names_every_field() {
    let schema = schema();
    let description = schema["$defs"]["IdentityFile"]["properties"]["headers"]["description"].as_str().unwrap();
    let (_, listed) = description.split_once("values: ").unwrap();
    let (listed, _) = listed.split_once(", or").unwrap();
    assert!(listed.split(", ").eq(IdentityField::names()), "{description}");
}

/// Text that looks like a configuration more often than chance would have it.
fn arbitrary_yaml() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "issuers",
        "rules",
        "match",
        "path",
        "name",
        "keys",
        "jwks",
        "revocation",
        "redis",
        "url",
        "listen",
        "check",
        "token",
        "from",
        "identity",
        "headers",
        ":",
        ": ",
        "\n",
        "\n  ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&a",
        "*a",
        "<<",
        "!!int",
        "|",
        "'",
        "\"",
        "#",
        "?",
        "null",
        "~",
        "true",
        "1e9",
        "0x10",
        "-1",
        "30s",
        "/",
        "any",
        "\t",
        "é",
        "\u{0}",
        "%",
        "\\",
        "redis://u:p@h",
        "unix:",
        "127.0.0.1:1",
        "(?P<x>",
        "claim:",
    ]);
    prop_oneof![prop::collection::vec(word, 0..40).prop_map(|words| words.concat()), ".{0,80}"]
}

proptest! {
    #[test]
    fn no_text_panics_and_every_fault_has_one_line(text in arbitrary_yaml(), name in "[A-Z_0-9]{0,30}", value in ".{0,20}") {
        let env = [(format!("DOORWARD__{name}"), value)];
        if let Err(faults) = Config::parse(&text, "c.yaml", Path::new(""), env.into_iter()) {
            prop_assert!(!faults.faults.is_empty());
            prop_assert_eq!(faults.to_string().lines().count(), faults.faults.len());
        }
    }

    #[test]
    fn a_good_configuration_with_one_line_changed_never_panics(line in 0_usize..60, text in arbitrary_yaml()) {
        let lines = include_str!("testdata/example.yaml").lines().enumerate();
        let changed: Vec<_> = lines.map(|(at, old)| if at == line { text.as_str() } else { old }).collect();
        let _ = parse(&changed.join("\n"));
    }
}
