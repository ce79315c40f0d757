//! `/logout` and the pages of other sites.

use reqwest::Method;

use super::Edge;
use crate::api::{request, send};

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_sites_may_sign_out_from_a_page() {
    let listen =
        "listen: {check: \"127.0.0.1:0\", http: \"127.0.0.1:0\", cors_origins: [\"https://shop.example.com\"]}\n";
    let edge = Edge::start(&format!("{listen}token: {{from: [{{header: authorization, scheme: Bearer}}, {{header: x-token}}, {{cookie: session}}]}}\n")).await;
    let to = |method: Method, origin: &str| request(edge.doorward.http, method, "/logout").header("origin", origin);
    let listed = "https://shop.example.com";
    let preflight = to(Method::OPTIONS, listed).header("access-control-request-method", "POST");
    let reply = send(preflight.header("access-control-request-headers", "authorization")).await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (204, listed), "{reply:?}");
    assert_eq!(reply.header("access-control-allow-methods"), "POST");
    assert_eq!(reply.header("access-control-allow-headers"), "authorization, x-token, dpop");
    assert_eq!((reply.header("vary"), reply.header("access-control-max-age")), ("Origin", "600"));

    let token = edge.tokens.of("alice");
    for foreign in [
        "https://evil.example",
        "null",
        "",
        "https://shop.example.com.evil.example",
        "http://shop.example.com",
        "https://shop.example.com:8443",
        "https://SHOP.example.com",
        "https://shop.example.com, https://evil.example",
    ] {
        for method in [Method::OPTIONS, Method::POST] {
            // A page's form sends the cookie without a preflight.
            let reply = send(to(method, foreign).header("cookie", format!("session={token}"))).await;
            reply.is_problem(403, "foreign-origin", None);
            assert_eq!(reply.header("access-control-allow-origin"), "", "{foreign}");
        }
    }
    let twice = to(Method::POST, listed).header("origin", "https://evil.example").bearer_auth(&token);
    send(twice).await.is_problem(403, "foreign-origin", None);
    assert_eq!(edge.reason(&token).await, "ok");

    let reply = edge.ends("logout from a page", &token, send(to(Method::POST, listed).bearer_auth(&token))).await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (204, listed));
    assert_eq!(reply.header("access-control-allow-credentials"), "true");
    // Requests of Doorward's own page, and requests without a page; and a refusal that the page can read.
    let own = format!("http://{}", edge.doorward.http);
    assert_eq!(send(to(Method::POST, &own).bearer_auth(edge.tokens.of("bob"))).await.status, 204);
    assert_eq!(edge.doorward.post("/logout", &edge.tokens.of("carol")).await.0, 204);
    let reply = send(to(Method::POST, listed).bearer_auth("x")).await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (401, listed));
}
