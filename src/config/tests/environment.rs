use super::*;
use crate::authz::answer::{IdentityField, TokenField};

fn load(text: &str, env: &[(&str, &str)]) -> Result<Loaded, Faults> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(text, "c.yaml", &testdata(), env)
}

#[track_caller]
fn overridden(env: &[(&str, &str)]) -> Config {
    load(ISSUER, env).unwrap_or_else(|faults| panic!("{faults}")).config
}

#[test]
fn variables_override_any_scalar() {
    let config = overridden(&[
        ("DOORWARD__REVOCATION__REDIS__URL", "redis://r.test:1/2"),
        ("doorward__revocation__max_staleness", "5s"),
        ("DOORWARD__LISTEN__HTTP", "null"),
        ("DOORWARD__TOKEN__FORWARD", "false"),
        ("DOORWARD__LIMITS__LIST_PAGE", "7"),
        ("DOORWARD__ERRORS__REALM", "shop #1"),
        ("DOORWARD__REVOCATION__REDIS__USERNAME", "123"),
        ("DOORWARD__LISTEN__ADMIN", ""),
        ("DOORWARD__API_KEYS__HEADER", "'x-key'"),
        ("DOORWARD__IDENTITY__HEADERS__X_USER_ID", "token_id"),
        ("DOORWARD__IDENTITY__HEADERS__X_CLIENT", "client_id"),
        ("DOORWARD__ISSUERS__0__AUDIENCES__0", "cart"),
        ("DOORWARD__ISSUERS__0__AUDIENCES__1", "shop"),
        ("DOORWARD__REVOCATION__REDIS__PASSWORD", "{00: null"),
        ("DOORWARD_CONFIG", "not one of ours"),
        ("PATH", "/bin"),
    ]);
    let Store::Redis { server: redis, .. } = &config.revocation.store else { panic!() };
    assert_eq!(redis.url.as_str(), "redis://r.test:1/2");
    assert_eq!(redis.password.as_ref().map(secrecy::ExposeSecret::expose_secret), Some("{00: null"));
    assert_eq!(config.max_staleness, Duration::from_secs(5));
    assert_eq!((config.listen.http, config.listen.admin), (None, None));
    assert_eq!(config.api_keys.header, "x-key");
    assert!(!config.token.forward);
    assert_eq!(config.limits.list_page, 7);
    assert_eq!((config.errors.realm.as_str(), redis.username.as_deref()), ("shop #1", Some("123")));
    let headers = [
        ("x-client", IdentityField::Token(TokenField::ClientId)),
        ("x-user-email", IdentityField::Token(TokenField::Email)), // The default stays, so that a client's copy does not pass.
        ("x-user-id", IdentityField::Token(TokenField::TokenId)),
    ];
    assert_eq!(config.identity.headers, headers.map(|(name, field)| (name.to_owned(), field)));
    assert!(matches!(&config.issuers[0].trusted.audiences, Audiences::OneOf(list) if *list == ["cart", "shop"]));
}

#[test]
fn an_underscore_is_a_dash_in_names_of_headers_only() {
    let rule = "rules: [{name: a, require: {claims: {team-id: [x]}}}]\n";
    let claim = |name| format!("DOORWARD__RULES__0__REQUIRE__CLAIMS__{name}__0");
    let (tenant, team) = (claim("TENANT_ID"), claim("TEAM_ID"));
    let loaded = load(&format!("{ISSUER}{rule}"), &[(&tenant, "t"), (&team, "y")]);
    let config = loaded.unwrap_or_else(|faults| panic!("{faults}")).config;
    let claims: Vec<_> = config.rules[0].require.claims.iter().map(|(name, of)| (name.clone(), of.clone())).collect();
    assert_eq!(claims, [("team-id".to_owned(), vec!["y".into()]), ("tenant_id".to_owned(), vec!["t".into()])]);

    let text = format!("{ISSUER}identity: {{headers: {{x-client: client_id}}}}\n");
    let loaded = load(&text, &[("DOORWARD__IDENTITY__HEADERS__X_USER_ID", "user_id")]);
    let names: Vec<_> = loaded.unwrap().config.identity.headers.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["x-client", "x-user-id"], "what is written replaces the default");
}

#[test]
fn a_whole_configuration_can_stand_in_the_environment() {
    let env = [
        ("DOORWARD__ISSUERS__0__NAME", "main"),
        ("DOORWARD__ISSUERS__0__ISSUER", "https://a.test"),
        ("DOORWARD__ISSUERS__0__AUDIENCES", "any"),
        ("DOORWARD__ISSUERS__0__KEYS__DISCOVERY", "true"),
    ];
    let config = load("", &env).unwrap_or_else(|faults| panic!("{faults}")).config;
    let KeySource::Fetched(keys) = &config.issuers[0].keys else { panic!() };
    assert_eq!(keys.location, Location::Discovery("https://a.test".to_owned()));
}

#[test]
fn faults_name_the_variable() {
    for (name, value, expected) in [
        ("DOORWARD__REVOCATION__STALE", "x", "revocation.stale: is not a known key; known are "),
        ("DOORWARD__NOWHERE__X", "x", "nowhere: is not a known key"),
        ("DOORWARD__", "x", "[\"\"]: is not a known key"),
        ("DOORWARD__LISTEN__CHECK__X", "x", "listen.check.x: is not a known key"),
        ("DOORWARD__ISSUERS__MAIN__NAME", "x", "issuers.main: the items of a list have numbers"),
        ("DOORWARD__ISSUERS__5__NAME", "x", "issuers[5]: the list has 1 items; the next has the number 1"),
        (
            "DOORWARD__ISSUERS__0__LEEWAY",
            "12x",
            "issuers[0].leeway: must be a duration such as `30s`, `5m` or `24h` (found \"12x\")",
        ),
        (
            "DOORWARD__LIMITS__LIST_PAGE",
            "many",
            "limits.list_page: must be a whole number from 1 to 10000 (found \"many\")",
        ),
        ("DOORWARD__TOKEN__FORWARD", "yes", "token.forward: must be `true` or `false` (found \"yes\")"),
        ("DOORWARD__REVOCATION__STORE", "etcd", "revocation.store: must be `embedded` or `redis` (found \"etcd\")"),
    ] {
        let faults = load(ISSUER, &[(name, value)]).unwrap_err().to_string();
        assert!(faults.starts_with(&format!("{name}: {expected}")), "{faults}");
        assert_eq!(faults.lines().count(), 1, "{faults}");
    }
    let ended = load(ISSUER, &[("DOORWARD__NOW\r\nHERE\u{1b}", "x")]).unwrap_err().to_string();
    assert!(ended.starts_with("DOORWARD__NOW\\r\\nHERE\\u{1b}: "), "{ended}");
    assert!(!ended.contains(['\r', '\n', '\u{1b}']), "{ended:?}");
    let twice = load(ISSUER, &[("DOORWARD__ERRORS__REALM", "a"), ("doorward__errors__realm", "b")]).unwrap_err();
    assert!(twice.to_string().contains("errors.realm: is set by the variable"), "{twice}");
}
