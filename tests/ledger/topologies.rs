//! The ways to reach Redis: Unix socket, TLS, ACL user, Sentinel, Cluster.

use std::process::Command;
use std::time::Duration;

use doorward::clock::Steady;
use doorward::sources::ledger::{Adopt, Redis, RedisConfig};

use super::support::*;

/// One revocation in each direction between two instances.
async fn works(config: RedisConfig) {
    // A new store confirms no receipt for the length of a lease.
    let launch = |config| Instance::launch_holding(config, Duration::from_secs(1));
    let (one, two) = (launch(config.clone()), launch(config));
    one.becomes_ready().await;
    two.becomes_ready().await;
    one.replica.revoke(vec![sign_out("j")]).await.unwrap();
    two.comes_to_refuse(&token("j")).await;
    assert!(two.replica.lookup(&[token("j")], None).await.unwrap().is_some());
    let written = one.replica.revoke(vec![sign_out("k")]).await.unwrap();
    let receipt = Box::pin(one.replica.confirm(&sign_out("k"), written, Steady::now(), PATIENCE, &|_| {})).await;
    assert_eq!((receipt.instances, receipt.applied, receipt.waiting.len()), (2, 2, 0), "{receipt:?}");
    two.end().await;
    assert_eq!(one.replica.peers().await.unwrap().len(), 1, "a lease is given back at the end");
}

#[tokio::test]
async fn a_unix_socket() {
    let redis = RedisServer::start(&["--unixsocket", "r.sock"]).await;
    works(patient(format!("redis+unix://{}", redis.directory().join("r.sock").display()))).await;
}

/// Exactly the permissions of an instance; docs/signing-out.md shows this line.
const LEAST: &str = "resetkeys ~doorward:{r}:* resetchannels -@all +ping +select +client|id +info +time +multi +exec \
    +discard +watch +wait +get +mget +set +del +exists +pexpire +pexpiretime +xadd +xread +xrevrange +xinfo|stream \
    +zadd +zrange +zremrangebyscore";

#[tokio::test]
async fn a_user_with_the_least_commands() {
    let redis = RedisServer::start(&[]).await;
    redis.cli(
        &[&["ACL", "SETUSER", "doorward", "on", ">s3cret"], &*LEAST.split_whitespace().collect::<Vec<_>>()].concat(),
    );
    works(patient(format!("redis://doorward:s3cret@127.0.0.1:{}/0", redis.port))).await;
    // With `adopt: blacklist:{jti}` these two more.
    redis.cli(&["ACL", "SETUSER", "doorward", "+scan", "%R~*blacklist:*"]);
    let config = patient(format!("redis://doorward:s3cret@127.0.0.1:{}/0", redis.port));
    let issuers = vec![(token("j").issuer, Duration::ZERO)];
    let adopt = Adopt { keys: blacklist(), within: Duration::from_secs(1), issuers };
    let adopting = Instance::launch(RedisConfig { adopt: Some(adopt), ..config });
    adopting.becomes_ready().await;
    redis.cli(&["SET", "blacklist:adopted", "1", "EX", "100"]);
    assert!(adopting.replica.lookup(&[token("adopted")], None).await.unwrap().is_some());
    adopting.comes_to_refuse(&token("adopted")).await;
    adopting.end().await;
    redis.cli(&["FLUSHALL"]);
    redis.cli(&["ACL", "SETUSER", "doorward", "-xread"]);
    let instance = Instance::launch(patient(format!("redis://doorward:s3cret@127.0.0.1:{}/0", redis.port)));
    eventually("named", || instance.replica.status().state.as_str() == "access_denied").await;
    let detail = instance.replica.status().detail.unwrap();
    assert!(detail.contains("xread"), "says which command is missing: {detail}");
}

#[tokio::test]
async fn tls_with_a_private_authority() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut redis = RedisServer::stopped(&[]);
    let tls = redis.serve_tls();
    redis.run().await;
    let config = |ca: &str| {
        let ca_file = Some(redis.directory().join(ca));
        RedisConfig { server: Redis { ca_file, ..tls.clone() }, ..patient("") }
    };
    works(config("ca.pem")).await;
    redis.make_authority("other");
    let stranger = Instance::launch(config("other.pem"));
    eventually("refused", || stranger.replica.status().state.as_str() == "unreachable").await;
    let detail = stranger.replica.status().detail.unwrap();
    assert!(detail.contains("InvalidCertificate"), "{detail}");
}

/// Appends until stopped; every acknowledged revocation must be applied everywhere, also by an
/// instance that starts afterwards.
async fn survives_a_failover(config: RedisConfig, mut fail: impl AsyncFnMut()) {
    let (one, two) = (Instance::launch(config.clone()), Instance::launch(config.clone()));
    one.becomes_ready().await;
    two.becomes_ready().await;
    let done = tokio_util::sync::CancellationToken::new();
    let under_load = tokio::sync::Notify::new();
    let load = async {
        let mut acknowledged = Vec::new();
        for n in 0.. {
            let id = format!("failover-{n}");
            if one.replica.revoke(vec![sign_out(&id)]).await.is_ok() {
                acknowledged.push(id);
            }
            if acknowledged.len() == 100 {
                under_load.notify_one();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            if done.is_cancelled() && acknowledged.last().is_some_and(|last| last.ends_with(&format!("-{n}"))) {
                break;
            }
        }
        acknowledged
    };
    let (acknowledged, ()) = tokio::join!(load, async {
        under_load.notified().await;
        fail().await;
        done.cancel();
    });
    assert!(acknowledged.len() > 100);
    for id in &acknowledged {
        two.comes_to_refuse(&token(id)).await;
    }
    let whole = |instance: &Instance| {
        let stats = instance.replica.stats();
        (stats.reseed_waiting.get(), stats.unsaved.get()) == (0, 0)
            && instance.replica.status().state.as_str() == "following"
    };
    eventually("the store is whole", || whole(&one) && whole(&two)).await;
    let three = Instance::launch(config);
    three.becomes_ready().await;
    let missing: Vec<_> = acknowledged.iter().filter(|id| !three.refuses(&token(id))).collect();
    assert!(missing.is_empty(), "acknowledged, and unknown to a new instance: {missing:?}");
}

#[tokio::test]
async fn a_sentinel_failover() {
    let mut primary = RedisServer::start(&[]).await;
    let primary_port = primary.port.to_string();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &primary_port]).await;
    eventually("in step", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up")).await;
    let mut sentinel = RedisServer::stopped(&[]);
    let file = sentinel.directory().join("sentinel.conf");
    std::fs::write(
        &file,
        format!(
            "sentinel monitor doors 127.0.0.1 {primary_port} 1\nsentinel down-after-milliseconds doors 500\n\
             sentinel failover-timeout doors 3000\n"
        ),
    )
    .unwrap();
    sentinel.run_from(&file, &["--sentinel"]).await;
    eventually("the sentinel knows both", || sentinel.cli(&["SENTINEL", "REPLICAS", "doors"]).contains("flags")).await;
    let url = format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName=doors", sentinel.port);
    survives_a_failover(patient(url), async || {
        primary.kill();
        eventually("promoted", || replica.cli(&["ROLE"]).starts_with("master")).await;
    })
    .await;
}

#[tokio::test]
async fn a_cluster_failover() {
    let mut nodes = Vec::new();
    for _ in 0..4 {
        // The bus port is chosen too: port + 10000 may be taken or out of range.
        let bus = free_port().to_string();
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "3000", "--cluster-port", &bus];
        nodes.push(RedisServer::start(&options).await);
    }
    let (replica, primaries) = nodes.split_last_mut().unwrap();
    let address = |node: &RedisServer| format!("127.0.0.1:{}", node.port);
    let addresses: Vec<_> = primaries.iter().map(address).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    replica.cli(&[&["--cluster", "create"], &*addresses, &["--cluster-yes"]].concat());
    let slot = replica.cli(&["CLUSTER", "KEYSLOT", "doorward:{r}:log"]);
    eventually("the cluster is up", || {
        primaries.iter().all(|node| node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"))
    })
    .await;
    let shard = primaries[0].cli(&["CLUSTER", "SLOTS"]);
    let slot: u32 = slot.parse().unwrap();
    let owner = owner(&shard, slot);
    let owner = primaries.iter_mut().find(|node| node.port == owner).unwrap();
    let id = owner.cli(&["CLUSTER", "MYID"]);
    replica.cli(&[
        "--cluster",
        "add-node",
        &address(replica),
        &address(owner),
        "--cluster-slave",
        "--cluster-master-id",
        &id,
    ]);
    eventually("in step", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up")).await;
    let url = format!("redis-cluster://{}?node={}&node={}", addresses[0], addresses[1], addresses[2]);
    adopts_from_every_node(&url, owner.port).await;
    survives_a_failover(patient(url), async || {
        owner.kill();
        eventually("promoted", || replica.cli(&["ROLE"]).starts_with("master")).await;
    })
    .await;
}

/// Another service's keys have no hash tag: they lie on every node.
async fn adopts_from_every_node(url: &str, port: u16) {
    let ids: Vec<_> = (0..60).map(|n| format!("adopted-{n}")).collect();
    for id in &ids {
        let set = ["-c", "-p", &port.to_string(), "SET", &format!("blacklist:{id}"), "1", "EX", "100"];
        assert!(Command::new("redis-cli").args(set).output().unwrap().stdout.starts_with(b"OK"));
    }
    let issuers = vec![(token("j").issuer, Duration::ZERO)];
    let adopt = Adopt { keys: blacklist(), within: Duration::from_secs(2), issuers };
    let instance = Instance::launch(RedisConfig { adopt: Some(adopt), ..patient(url) });
    instance.becomes_ready().await;
    for id in &ids {
        assert!(instance.refuses(&token(id)), "{id}");
        assert!(instance.replica.lookup(&[token(id)], None).await.unwrap().is_some(), "{id}");
    }
    assert_eq!(instance.replica.lookup(&[token("another")], None).await.unwrap(), None);
    instance.end().await;
}

/// The port of the primary that has the slot, from CLUSTER SLOTS as redis-cli prints it: first slot,
/// last slot, host, port and more, one a line.
fn owner(slots: &str, slot: u32) -> u16 {
    let lines: Vec<_> = slots.lines().collect();
    lines
        .windows(4)
        .find_map(|window| {
            let [first, last] = [window[0], window[1]].map(|number| number.parse::<u32>().ok());
            let within = (first?..=last?).contains(&slot) && window[2] == "127.0.0.1";
            within.then(|| window[3].parse().ok()).flatten()
        })
        .unwrap()
}

/// Redis cannot determine its own address then, and returns an empty host in CLUSTER SLOTS.
#[tokio::test]
async fn a_cluster_of_one() {
    let bus = free_port().to_string();
    let redis = RedisServer::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await;
    redis.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    eventually("the cluster is up", || redis.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")).await;
    works(patient(format!("redis-cluster://127.0.0.1:{}", redis.port))).await;
}

#[tokio::test]
async fn tls_at_a_plain_port_is_reported() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::launch(RedisConfig::new(format!("rediss://127.0.0.1:{}", redis.port)));
    let detail = || instance.replica.status().detail.unwrap_or_default();
    eventually("named", || detail().contains("does not use TLS on this port; write `redis://`")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_reported() {
    let Some(envoy) = crate::support::envoy::binary() else { return };
    let redis = RedisServer::start(&[]).await;
    let address = |port: u16| format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
    let (any, server) = (address(0), address(redis.port));
    let config = format!(
        "admin: {{address: {any}}}
static_resources:
  listeners:
  - name: redis
    address: {any}
    filter_chains:
    - filters:
      - name: envoy.filters.network.redis_proxy
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy
          stat_prefix: redis
          settings: {{op_timeout: 5s}}
          prefix_routes: {{catch_all_route: {{cluster: redis}}}}
  clusters:
  - {{name: redis, type: STATIC, load_assignment: {{cluster_name: redis, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {server}}}}}]}}]}}}}
"
    );
    let proxy = crate::support::envoy::Envoy::start_text(&envoy, &config).await;
    let instance = Instance::launch(RedisConfig::new(format!("redis://{}", proxy.address)));
    let detail = || instance.replica.status().detail.unwrap_or_default();
    eventually("named", || detail().contains("redis_proxy or Twemproxy")).await;
}
