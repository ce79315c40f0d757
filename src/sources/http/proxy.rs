//! HTTP clients for other servers: they use the proxies of the environment, except for this host.
//!
//! Plain http is allowed to this host because no other machine is involved. A proxy would be another machine: it could
//! answer with its own keys, and would receive the credentials of Doorward's clients.

use reqwest::{ClientBuilder, NoProxy, Proxy};

/// The hosts that are never proxied, independent of `NO_PROXY`.
const THIS_HOST: &str = "localhost,127.0.0.0/8,::1,::ffff:127.0.0.0/104";

/// A client that is not yet built, with the proxies of the environment.
pub(super) fn client() -> ClientBuilder {
    by(|name| std::env::var(name).ok())
}

/// [`client`], where `variable` reads the environment; an empty variable counts as unset. A proxy that cannot be parsed
/// is left out.
fn by(variable: impl Fn(&str) -> Option<String>) -> ClientBuilder {
    let first = |names: [&str; 2]| names.into_iter().filter_map(&variable).find(|value| !value.trim().is_empty());
    let except = format!("{THIS_HOST},{}", first(["NO_PROXY", "no_proxy"]).unwrap_or_default());
    let except = NoProxy::from_string(&except);
    let all = || first(["ALL_PROXY", "all_proxy"]);
    let http = first(["HTTP_PROXY", "http_proxy"]).or_else(all).and_then(|proxy| Proxy::http(proxy).ok());
    let https = first(["HTTPS_PROXY", "https_proxy"]).or_else(all).and_then(|proxy| Proxy::https(proxy).ok());
    let proxies = [http, https].into_iter().flatten();
    let client = reqwest::Client::builder().no_proxy().user_agent(concat!("doorward/", env!("CARGO_PKG_VERSION")));
    proxies.fold(client, |client, proxy| client.proxy(proxy.no_proxy(except.clone())))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::Router;
    use tokio::task::JoinSet;

    use super::*;

    /// Serves everything with one text, as a proxy does for any host.
    async fn answer(text: &'static str, servers: &mut JoinSet<std::io::Result<()>>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(move || async move { text });
        servers.spawn(async move { axum::serve(listener, router).await });
        address
    }

    #[tokio::test]
    async fn this_host_is_asked_directly_and_others_by_the_proxy() {
        let mut servers = JoinSet::new();
        let (proxy, server) = (answer("proxy", &mut servers).await, answer("server", &mut servers).await);
        let client = |variables: &[(&str, &str)]| {
            let value =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            by(value).build().unwrap()
        };
        let proxy = format!("http://{proxy}");
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            for no_proxy in ["", "other.test"] {
                let client = client(&[(name, &proxy), ("NO_PROXY", no_proxy)]);
                let ask = async |host: String| {
                    client.get(format!("http://{host}/")).send().await.unwrap().text().await.unwrap()
                };
                for host in [server.to_string(), format!("localhost:{}", server.port())] {
                    assert_eq!(ask(host.clone()).await, "server", "{name} {no_proxy} {host}");
                }
                assert_eq!(ask("issuer.test".to_owned()).await, "proxy", "{name} {no_proxy}");
            }
        }
        // At an address without a listener, only the proxy can answer. An empty variable counts as unset.
        for no_proxy in [("NO_PROXY", "issuer.test"), ("no_proxy", "issuer.test"), ("no_proxy", "*")] {
            let client = client(&[("HTTP_PROXY", ""), ("all_proxy", &proxy), no_proxy, ("NO_PROXY", "")]);
            for host in ["issuer.test", "127.9.9.9:1", "[::1]:1", "LOCALHOST:1", "[::ffff:127.0.0.1]:1"] {
                assert!(client.get(format!("http://{host}/")).send().await.is_err(), "{no_proxy:?} {host}");
            }
        }
    }
}
