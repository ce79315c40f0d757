//! The `/config_dump` of a running Envoy.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{bad_files, lint, rules};
use crate::support::TempDir;
use crate::support::envoy::{self, Envoy};

/// There are neither checks nor upstream requests.
fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_shows_what_the_file_does() {
    for binary in envoy::binaries() {
        for file in [
            "clean",
            "identity-not-stripped.host",
            "identity-not-stripped.weighted",
            "cluster-http1",
            "timeout-missing",
        ] {
            let rule = file.split('.').next().unwrap();
            let text = envoy::text(&format!("tests/lint/{file}.yaml"), "127.0.0.1:9", nowhere());
            let envoy = Envoy::start_text(&binary, &text).await;
            let (_, findings) = lint(&["-"], &envoy.ask_admin("/config_dump").await);
            let expected = if rule == "clean" { vec![] } else { vec![rule] };
            assert_eq!(rules(&findings), expected, "{file}: {findings:#?}");
            if rule == "cluster-http1" {
                let path = findings[0]["path"].as_str().unwrap();
                assert!(path.starts_with("configs[") && path.ends_with("].cluster"), "{path}");
            }
        }
    }
}

/// Listeners, clusters and routes that came by LDS, CDS and RDS.
#[tokio::test(flavor = "multi_thread")]
async fn resources_from_xds_are_checked_as_well() {
    let Some(binary) = envoy::binary() else { return };
    let (_, file) = bad_files().into_iter().find(|(rule, _)| rule == "identity-not-stripped").unwrap();
    let file = file.strip_prefix(super::ROOT).unwrap().to_str().unwrap();
    let mut parts: Value = serde_saphyr::from_str(&envoy::text(file, "127.0.0.1:9", nowhere())).unwrap();
    let dir = TempDir::new();
    let write = |name: &str, kind: &str, resources: Vec<Value>| {
        let typed = |mut resource: Value| {
            resource["@type"] = json!(format!("type.googleapis.com/envoy.config.{kind}"));
            resource
        };
        let resources: Vec<_> = resources.into_iter().map(typed).collect();
        let path = dir.path().join(name);
        std::fs::write(&path, json!({"version_info": "1", "resources": resources}).to_string()).unwrap();
        json!({"resource_api_version": "V3", "path_config_source": {"path": path}})
    };
    let mut listener = parts["static_resources"]["listeners"][0].take();
    listener["enable_reuse_port"] = json!(false);
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    let mut routes = manager.as_object_mut().unwrap().remove("route_config").unwrap();
    routes["name"] = json!("edge");
    let routes_source = write("routes.json", "route.v3.RouteConfiguration", vec![routes]);
    manager["rds"] = json!({"route_config_name": "edge", "config_source": routes_source});
    let clusters = parts["static_resources"]["clusters"].as_array().unwrap().clone();
    let bootstrap = json!({
        "node": {"id": "a", "cluster": "a"},
        "admin": parts["admin"],
        "dynamic_resources": {
            "lds_config": write("listeners.json", "listener.v3.Listener", vec![listener]),
            "cds_config": write("clusters.json", "cluster.v3.Cluster", clusters),
        },
    });
    let envoy = Envoy::start_text(&binary, &bootstrap.to_string()).await;
    let dump = envoy.ask_admin("/config_dump").await;
    assert!(dump.contains("dynamic_route_configs") && dump.contains("dynamic_listeners"), "{dump}");
    let (_, findings) = lint(&["-"], &dump);
    assert_eq!(rules(&findings), ["identity-not-stripped"], "{findings:#?}");
    assert!(findings[0]["path"].as_str().unwrap().contains("dynamic_route_configs[0].route_config.virtual_hosts[0]"));

    // Without its routes it is not judged for them; the files themselves are judged one by one.
    let (_, findings) = lint(&["-"], &std::fs::read_to_string(dir.path().join("listeners.json")).unwrap());
    assert_eq!(rules(&findings), ["no-early-strip"]);
}
