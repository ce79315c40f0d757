//! The form of the file, all faults together, and input that must not be shown or cost too much.

use std::fmt::Write as _;

use super::*;

/// The text has exactly this one fault, whose line begins so and contains this.
#[track_caller]
pub(super) fn faulty(text: &str, begins: &str, says: &str) {
    let faults = match parse(text) {
        Err(faults) => faults.to_string(),
        Ok(loaded) => panic!("no fault in:\n{text}\n{loaded:?}"),
    };
    assert!(faults.starts_with(&format!("c.yaml:{begins}: ")) && faults.contains(says), "{text}\n{faults}");
    assert_eq!(faults.lines().count(), 1, "{text}\n{faults}");
}

/// The same for the text after one valid issuer, from line 2 on.
#[track_caller]
pub(super) fn check(more: &str, begins: &str, says: &str) {
    faulty(&format!("{ISSUER}{more}\n"), begins, says);
}

#[test]
fn nothing_in_the_file() {
    for text in ["", "\n", "# a comment\n", "---\n", "null\n", "{}\n"] {
        assert_eq!(parse(text).unwrap_err().to_string(), "c.yaml: issuers: is missing; it must be a list", "{text:?}");
    }
    for text in ["- a\n", "text\n", "5\n"] {
        assert!(parse(text).unwrap_err().to_string().starts_with("c.yaml: must be a map"), "{text:?}");
    }
}

#[test]
fn no_yaml() {
    faulty("issuers: [", "1", "is not YAML: ");
    faulty("a: b: c", "1", "is not YAML: ");
    faulty("a: 1\n\tb: 2\n", "1", "is not YAML: ");
    faulty("a: *nothing\n", "1", "is not YAML: ");
    faulty("a: 1\n---\nb: 2\n", "2", "is not YAML: ");
    faulty("a: !!js/function x\n", "1", "is not YAML: ");
    faulty("a: .nan\n", "1", "is not YAML: ");
}

#[test]
fn keys_and_types() {
    check("rule: []", "2: rule", "is not a known key; did you mean `rules`?");
    check("frobnicate: 1", "2: frobnicate", "is not a known key; known are admin, api_keys, console, errors,");
    check("token:\n  frm: []", "3: token.frm", "did you mean `from`?");
    check("listen: {check: 127.0.0.1:1, chekc: x}", "2: listen.chekc", "did you mean `check`?");
    check("errors: {realm: a, realm: b}", "2: errors.realm", "the key is written twice (first on line 2)");
    check("errors:\n  realm: a\n  realm: b", "4: errors.realm", "the key is written twice (first on line 3)");
    check("rules: {}", "2: rules", "must be a list");
    check("rules:\n", "2: rules", "must be a list (found null)");
    check("token: {max_bytes: many}", "2: token.max_bytes", "must be a whole number from 64 to 65536 (found \"many\")");
    check("token: {max_bytes: 1.5}", "2: token.max_bytes", "must be a whole number from 64 to 65536 (found 1.5)");
    check(
        "token: {max_bytes: 99999999999999999999999}",
        "2: token.max_bytes",
        "must be a whole number from 64 to 65536",
    );
    check("token: {max_bytes: 10}", "2: token.max_bytes", "must be a whole number from 64 to 65536 (found 10)");
    check("token: {forward: yes}", "2: token.forward", "must be `true` or `false` (found \"yes\")");
    check("errors: {realm: 5}", "2: errors.realm", "must be text; put it in quotes (found 5)");
    check("errors: {detail: full}", "2: errors.detail", "must be `reason` or `code` (found \"full\")");
    check(
        "revocation: {max_staleness: 30}",
        "2: revocation.max_staleness",
        "must be a duration such as `30s`, `5m` or `24h` (found 30)",
    );
    check(
        "rules:\n- {name: a, access: pubic}",
        "3: rules[0].access",
        "must be `public`, `optional`, `protected`, `refresh` or `sign_out` (found \"pubic\")",
    );
    check("rules: [5]", "2: rules[0]", "must be a map (found 5)");
    check("listen: {tls: {cert_file: ca.pem}}", "2: listen.tls.key_file", "is missing; it must be text");
    check("limits: {list_page: 0}", "2: limits.list_page", "must be a whole number from 1 to 10000 (found 0)");
}

#[test]
fn all_faults_are_reported_at_once_in_the_order_of_the_file() {
    let text = "lissen: 1\nissuers:\n- name: Main\n  issuer: 5\n  keys: {jwks_url: 'http://x.test', jwks_file: y}\nrules:\n- {name: a, match: {}}\n- {nme: b, match: {path: a//b}, access: pubic}\nrevocation: {redis: {password: [x]}, max_staleness: 10ms}\n";
    let env = [("DOORWARD__ERRORS__REALM".to_owned(), String::new())];
    let faults = Config::parse(text, "c.yaml", &testdata(), env.into_iter()).unwrap_err();
    let places: Vec<String> =
        faults.to_string().lines().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "c.yaml:1 lissen",
        "c.yaml:3 issuers[0].audiences",
        "c.yaml:3 issuers[0].name",
        "c.yaml:4 issuers[0].issuer",
        "c.yaml:5 issuers[0].keys",
        "c.yaml:5 issuers[0].keys.jwks_url",
        "c.yaml:7 rules[0].match",
        "c.yaml:8 rules[1].access",
        "c.yaml:8 rules[1].match.path",
        "c.yaml:8 rules[1].name",
        "c.yaml:8 rules[1].nme",
        "c.yaml:9 revocation.max_staleness",
        "c.yaml:9 revocation.redis.password",
        "DOORWARD__ERRORS__REALM errors.realm",
    ];
    assert_eq!(places, expected);
}

#[test]
fn credentials_are_never_shown() {
    for more in [
        "revocation: {redis: {pasword: hunter2}}",
        "revocation: {redis: {password: [hunter2]}}",
        "revocation: {redis: {password: hunter2, password_file: password}}",
        "revocation: {redis: {url: 'redis://x:hunter2@'}}",
        "revocation: {redis: {url: 'http://x:hunter2@r.test'}}",
        "revocation: {redis: {url: 'r.test:6379,password=hunter2'}}",
        "revocation: {redis: {url: 'redis-sentinel://r.test/x?sentinelPassword=hunter2'}}",
        "api_keys: {keys: [{id: a, sha256: hunter2}]}",
        "admin: {keys: [{name: a, sha256: hunter2, may: [read]}]}",
        "signals: {transmitters: [{issuer: a, audience: a, target_issuer: main, keys: {discovery: true}, poll: {url: 'https://a:hunter2@a.test', token: hunter2}}]}",
        "issuers: [{name: a, keys: {jwks: {k: hunter2}}, introspection: {client_secret: hunter2, client_secret_file: x}}]",
        "password: hunter2",
        "telemetry: {replay_alarm: {url: 'http://hooks.test/services/hunter2'}}",
        "telemetry: {otlp: {endpoint: 'ftp://otlp.test/hunter2'}}",
        "revocation: {redis: {url: 'http://r.test/hunter2'}}",
        "listen: {http: 'https://hooks.test/services/hunter2'}",
        "signals: {transmitters: [{issuer: 'https://a.test', audience: a, target_issuer: main, keys: {discovery: true}, poll: {url: 'http://a.test/hunter2', token: t}}]}",
        "issuers: [{name: a, issuer: 'https://a.test', audiences: any, keys: {jwks: {keys: []}}, introspection: {url: 'http://a.test/hunter2', client_id: '', client_secret: s}}]",
        "issuers: [{name: a, issuer: 'https://a.test', audiences: any, keys: {jwks: {keys: []}}, introspection: {url: 'https://a.test', client_id: \"hunter2\\n\", client_secret: ''}}]",
        "api_keys: {keys: [{id: 'hunter2é', sha256: x}]}",
        "admin: {keys: [{name: 'Hunter2 hunter2', sha256: x, may: [read]}]}",
        "revocation: {redis: {url: 'redis://r.test', username: '${hunter2}'}}",
        "revocation: {redis: {password: !hunter2 x}}",
        "revocation: {redis: {password: !<hunter2> x}}",
        "revocation: {redis: {password: *hunter2}}",
        "x: \"hunter2\n",
        "x: {hunter2: ]",
    ] {
        let text = if more.starts_with("issuers") { more.to_owned() } else { format!("{ISSUER}{more}\n") };
        let faults = parse(&text).unwrap_err();
        assert!(!faults.to_string().contains("hunter2") && !format!("{faults:?}").contains("hunter2"), "{faults:?}");
    }
    // In the place of the file that holds it.
    for more in [
        "revocation: {redis: {url: 'redis://r.test', password_file: hunter2}}",
        "revocation: {redis: {url: 'redis://r.test', password_file: 'Zm9v/hunter2=='}}",
        "issuers: [{name: a, issuer: a, audiences: any, algorithms: [HS256], keys: {secret_file: hunter2}}]",
        "listen: {tls: {cert_file: cert.pem, key_file: '-----BEGIN PRIVATE KEY----- hunter2'}}",
    ] {
        let text = if more.starts_with("issuers") { more.to_owned() } else { format!("{ISSUER}{more}\n") };
        let faults = parse(&text).unwrap_err().to_string();
        assert!(faults.contains("which must not be written here") && !faults.contains("hunter2"), "{faults}");
    }
    let env = |name: &str| [(name.to_owned(), "hunter2".to_owned())].into_iter();
    for name in [
        "DOORWARD__REVOCATION__REDIS__PASWORD",
        "DOORWARD__REVOCATION__REDIS__URL",
        "DOORWARD__API_KEYS__KEYS__0__SHA256",
    ] {
        let faults = Config::parse(ISSUER, "c.yaml", &testdata(), env(name)).unwrap_err();
        assert!(!faults.to_string().contains("hunter2"), "{faults}");
    }
}

/// A key outside the schema may hold a secret: its value is not shown unless the key is listed.
#[test]
fn unlisted_values_are_not_shown() {
    for more in [
        "api_keys: {keys: [hunter2]}",
        "admin: {keys: [hunter2]}",
        "admin: hunter2",
        "revocation: {redis: hunter2}",
        "listen: {tls: hunter2}",
        "issuers: [{name: a, issuer: 'https://a.test', audiences: any, keys: hunter2}]",
        "issuers: [{name: a, issuer: 'https://a.test', audiences: any, keys: {jwks: {passphrase: hunter2, keys: 5}}}]",
    ] {
        let text = if more.starts_with("issuers") { more.to_owned() } else { format!("{ISSUER}{more}\n") };
        let faults = parse(&text).unwrap_err();
        assert!(!format!("{faults} {faults:?}").contains("hunter2"), "{faults}");
    }
}

#[test]
fn an_unreplaced_placeholder_names_the_variable() {
    check(
        "errors: {realm: '${REALM}'}",
        "2: errors.realm",
        "has a placeholder that was not replaced; set the environment variable `DOORWARD__ERRORS__REALM` instead (found \"${REALM}\")",
    );
    check(
        "revocation: {redis: {url: 'redis://r.test', password: 'x${PASS:-hunter2}'}}",
        "2: revocation.redis.password",
        "`DOORWARD__REVOCATION__REDIS__PASSWORD` instead",
    );
    check("limits: {list_page: '${PAGE}'}", "2: limits.list_page", "`DOORWARD__LIMITS__LIST_PAGE` instead");
    check(
        "identity: {headers: {x-user-id: $(FIELD)}}",
        "2: identity.headers.x-user-id",
        "`DOORWARD__IDENTITY__HEADERS__X_USER_ID`",
    );
    check("errors: {realm: '{{ .Values.realm }}'}", "2: errors.realm", "has a placeholder");
    check("errors: {realm: $REALM}", "2: errors.realm", "has a placeholder");
    for placeholder in [
        "https://$HOST/",
        "https://$host/",
        "https://login.test/{id}/x",
        "<REALM>",
        "https://<your-host>/x",
        "<your realm>",
        "a {{.x}} b",
        "{% realm %}",
        "<%= realm %>",
        "#{REALM}#",
        "%REALM%",
        "https://%HOST%/",
        "@REALM@",
        "__REALM__",
        "https://a-__HOST__.test/",
        "$(realm)",
        "x-$REALM",
    ] {
        check(&format!("errors: {{realm: '{placeholder}'}}"), "2: errors.realm", "has a placeholder");
        let audience = ISSUER.replace("[shop]", &format!("['{placeholder}']"));
        faulty(&audience, "1: issuers[0].audiences[0]", "has a placeholder");
    }
    faulty(
        &ISSUER.replace("https://a.test/jwks", "'https://a.test/{tenant}/jwks'"),
        "1: issuers[0].keys.jwks_url",
        "has a placeholder",
    );
    for secret in ["$(PW)", "{{ .Values.pw }}", "<password>", "${PW}", "<% pw %>"] {
        let redis = format!("revocation: {{redis: {{url: 'redis://r.test', password: '{secret}'}}}}");
        check(&redis, "2: revocation.redis.password", "`DOORWARD__REVOCATION__REDIS__PASSWORD` instead");
    }
    faulty(
        "issuers: [{name: a, issuer: 'https://${HOST}/', audiences: any, keys: {jwks: {keys: []}}}]",
        "1: issuers[0].issuer",
        "`DOORWARD__ISSUERS__0__ISSUER`",
    );
    for fine in [
        "errors: {realm: 'a$'}",
        "errors: {realm: 'costs $5'}",
        "revocation: {redis: {url: 'redis://r.test', password: $ECRET}}",
        "revocation: {redis: {url: 'redis://r.test', password: 'a<b>c$(d'}}",
        "revocation: {redis: {url: 'redis://r.test', password: '%SECRET%'}}",
        "errors: {realm: 'a < b > c'}",
        "errors: {realm: '%C3%A9 %AB%CD'}",
        "errors: {realm: 'a@b.test'}",
        "token: {from: [{cookie: __Host-session}]}",
        "errors: {realm: 'u8N__Q7ZT__x'}", // As in a key that is encoded as base64url.
        "rules: [{name: a, match: {path_prefix: '/$metadata'}}]",
        "rules: [{name: a, match: {path_regex: '/(?<ID>x)'}}]",
    ] {
        config(&format!("{fine}\n"));
    }
    let shown =
        parse(&format!("{ISSUER}revocation: {{redis: {{url: 'redis://r.test', password: '${{P:-hunter2}}'}}}}\n"));
    assert!(!shown.unwrap_err().to_string().contains("hunter2"));
}

#[test]
fn a_wildcard_in_a_list_is_a_fault() {
    for (issuer, at, cure) in [
        ("audiences: [any]", "issuers[0].audiences[0]", "write `audiences: any`, without brackets"),
        ("audiences: ['*']", "issuers[0].audiences[0]", "write `audiences: any`, without brackets"),
        ("audiences: [shop, 'https://*.shop.test']", "issuers[0].audiences[1]", "not as a pattern"),
        (
            "audiences: any, backchannel_logout: {audiences: ['*']}",
            "issuers[0].backchannel_logout.audiences[0]",
            "client ids",
        ),
        ("audiences: any, token_types: ['*']", "issuers[0].token_types[0]", "name the types"),
    ] {
        faulty(&ISSUER.replace("audiences: [shop]", issuer), &format!("1: {at}"), cure);
    }
    for tenants in ["[any]", "['*']", "[Any]"] {
        let text = ISSUER
            .replace("issuer: https://a.test", &format!("issuer: 'https://a.test/{{tenant}}', tenants: {tenants}"));
        faulty(&text, "1: issuers[0].tenants[0]", "write `tenants: any`, without brackets");
    }
    faulty(&ISSUER.replace("https://a.test,", "'https://*.a.test',"), "1: issuers[0].issuer", "write the `iss`");
    check(
        &format!("api_keys: {{keys: [{{id: a, sha256: '{}', platforms: [any]}}]}}", "a".repeat(64)),
        "2: api_keys.keys[0].platforms[0]",
        "leave `platforms` out",
    );
}

#[test]
fn bombs_are_bounded() {
    let laughs = (1..40).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
        let last = n - 1;
        text + &format!(
            "a{n}: &a{n} [*a{last}, *a{last}, *a{last}, *a{last}, *a{last}, *a{last}, *a{last}, *a{last}]\n"
        )
    });
    let deep = format!("a: {}{}\n", "[".repeat(5000), "]".repeat(5000));
    let deep_block = (0..2000).map(|depth| " ".repeat(depth) + "a:\n").collect::<String>();
    let aliases = format!("a: &a x\nb: [{}]\n", "*a, ".repeat(5000));
    let cyclic = "a: &a [*a]\n".to_owned();
    for text in [laughs, deep, deep_block, aliases, cyclic] {
        let started = cpu_time();
        let faults = parse(&text).unwrap_err().to_string();
        assert!(faults.contains("is not YAML: "), "{}", &faults[..faults.len().min(400)]);
        assert!(cpu_time().saturating_sub(started) < Duration::from_secs(30), "it is read to its end");
    }
}

/// The time of this thread alone: other tests do not count.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}

#[test]
fn anchors_and_merges_are_read() {
    let rules = "rules:\n- {name: a, match: &m {path: /a, methods: [GET]}, access: public}\n- {name: b, match: {<<: *m, path: /b}, access: public}\n";
    let config = config(rules);
    assert!(matches!(&config.rules[1].matches.as_ref().unwrap().path, PathMatch::Exact(path) if path == "/b"));
    assert_eq!(config.rules[1].matches.as_ref().unwrap().methods, ["GET"]);
    check(
        "rules:\n- {name: a, match: &m {path: a}}\n- {name: b, match: {hosts: [b.test]}}",
        "3: rules[0].match.path",
        "begins with `/`",
    );
}

/// Four times as many keys take no more than eight times as long; by comparing each with each it would be sixteen.
#[test]
fn ten_thousand_keys_are_read_in_linear_time() {
    let took = |count: usize| {
        let mut text = format!("{ISSUER}api_keys:\n  keys:\n");
        for n in 0..count {
            let _ = writeln!(text, "  - {{id: client-{n}, sha256: \"{n:064x}\", platforms: [web], domains: [a.test]}}");
        }
        let started = cpu_time();
        good(&text);
        cpu_time().saturating_sub(started)
    };
    let (few, many) = (took(2_500), took(10_000));
    assert!(many < few * 8, "{few:?} for 2,500, {many:?} for 10,000");
}

#[test]
fn no_credential_in_a_url_is_shown() {
    let written = [
        "redis://:HUN?TER2@h:6379/0",
        "redis://:HUN/TER2@h:6379/0",
        "redis://:HUN#TER2@h:6379/0",
        "https://u:1?HUNTER2@h/x",
        "https://u:1/HUNTER2@h/x",
        "https://u:HUN#TER2@h/x",
        "https://u:HUNTER2@h/x",
        "http://u:HUNTER2@h/x#f",
        "u:HUNTER2@h:4317",
        "//u:HUNTER2@h/j",
        "https:/u:HUNTER2@h/j",
        "https:u:HUNTER2@h",
        "redis:HUNTER2@h:6379",
        "h:6379,password=HUNTER2",
        "https://h/x?token=HUNTER2",
        "https://h/x#token=HUNTER2",
        "https://h\\@u:HUNTER2",
        "redis-sentinel://h:26379/?password=HUNTER2",
        "REDIS://u:HUNTER2@ /",
    ];
    let issuer = |iss: &str, more: &str| {
        format!("issuers: [{{name: a, issuer: {iss}, audiences: any, keys: {{discovery: true}}{more}}}]\n")
    };
    let good = issuer("'https://a.test'", "");
    let transmitter = |more: &str| {
        format!(
            "{good}signals: {{transmitters: [{{issuer: 'https://i.test', audience: d, keys: {{discovery: true}}, {more}}}]}}\n"
        )
    };
    for url in written {
        let url = format!("'{url}'");
        for text in [
            issuer(&url, ""),
            issuer(&url, "").replace("discovery: true", &format!("jwks_url: {url}")),
            issuer("'https://a.test'", &format!(", introspection: {{url: {url}, client_id: c, client_secret: s}}")),
            format!("{good}revocation: {{redis: {{url: {url}}}}}\n"),
            format!("{good}telemetry: {{otlp: {{endpoint: {url}}}, replay_alarm: {{url: {url}}}}}\n"),
            format!("{good}listen: {{cors_origins: [{url}]}}\n"),
            transmitter(&format!("poll: {{url: {url}, token: t}}")),
            transmitter(&format!("stream: {{push_url: {url}, token: t}}")),
        ] {
            if let Err(faults) = parse(&text) {
                assert!(!faults.to_string().contains("HUN"), "{faults}\n{text}");
            }
        }
    }
    let shown = |url: &str| shown_url(url).unwrap_or_default();
    assert_eq!(shown("https://u:p@h:8443/jwks?key=1#f"), "https://…@h:8443/…?…");
    assert_eq!(shown("https://hooks.test/services/T/B/x"), "https://hooks.test/…");
    assert_eq!(fault::shown_location("https://u:p@h:8443/jwks?key=1#f").unwrap(), "https://…@h:8443/jwks?…");
    assert_eq!(
        (shown("https://h"), shown("redis+unix:///run/r.sock")),
        ("https://h".into(), "redis+unix:///run/r.sock".into())
    );
}

#[test]
fn files_of_a_refused_configuration_are_watched() {
    let text = "issuers: [{name: a, issuer: a, audiences: any, algorithms: [HS256], keys: {secret_file: nowhere}}]\n";
    assert!(parse(text).unwrap_err().watched.keys().eq([&testdata().join("nowhere")]));
    let missing = Config::load(Path::new("/no/such.yaml"), std::iter::empty()).unwrap_err();
    assert!(missing.watched.keys().eq([Path::new("/no/such.yaml")]));
}

#[test]
fn a_bad_token_type_hides_no_other_fault() {
    let text = ISSUER.replace("audiences", "token_types: [logout+jwt], leeway: 2h, claims: {email: ''}, audiences");
    let faults = parse(&text).unwrap_err().faults;
    let paths: Vec<_> = faults.iter().map(|fault| fault.path.to_string()).collect();
    assert_eq!(paths, ["issuers[0].claims.email", "issuers[0].leeway", "issuers[0].token_types[0]"]);
}

#[test]
fn a_key_must_be_that_of_its_certificate() {
    let (ours, another) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let certificate = rcgen::CertificateParams::default().self_signed(&ours).unwrap().pem();
    let fault = |key: &str| super::super::listen::pair_fault(certificate.as_bytes(), key.as_bytes());
    assert_eq!(fault(&ours.serialize_pem()), None);
    let other = fault(&another.serialize_pem()).unwrap();
    assert!(other.starts_with("must be the key of the certificate in `cert_file`"), "{other}");
    assert!(fault(&certificate).unwrap().starts_with("must hold a private key"));
}
