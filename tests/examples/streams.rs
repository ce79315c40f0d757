//! WebSockets and gRPC upstreams, through envoy/streams.yaml.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;

/// Echoes the messages of a WebSocket; greets with the user from the handshake.
async fn echo_server(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut user = None;
                #[expect(clippy::result_large_err, reason = "the library's callback")]
                let name = |request: &Request, response: Response| {
                    user = request.headers().get("x-user-id").map(|value| value.to_str().unwrap().to_owned());
                    Ok(response)
                };
                let mut socket = tokio_tungstenite::accept_hdr_async(stream, name).await.unwrap();
                socket.send(Message::text(user.unwrap_or_default())).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// Opens a WebSocket; the status when it is refused.
async fn open(envoy: &Envoy, path: &str, token: Option<&str>) -> Result<Socket, u16> {
    let mut request = format!("ws://{}{path}", envoy.address).into_client_request().unwrap();
    if let Some(token) = token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request.headers_mut().insert("x-user-id", "root".parse().unwrap());
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn text(socket: &mut Socket) -> Option<String> {
    match tokio::time::timeout(crate::support::PATIENCE, socket.next()).await.unwrap() {
        Some(Ok(Message::Text(text))) => Some(text.to_string()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_checked_when_it_opens_and_ends_with_its_session() {
    for binary in envoy::binaries() {
        let (tokens, mut tasks) = (Tokens::new(), JoinSet::new());
        let doorward = Doorward::start(&tokens.config("")).await;
        let upstream = echo_server(&mut tasks).await;
        let envoy = Envoy::start(&binary, "streams.yaml", &doorward.check, upstream).await;
        let alice = tokens.of("alice");
        assert_eq!(open(&envoy, "/ws", None).await.unwrap_err(), 401);
        assert_eq!(open(&envoy, "/elsewhere", Some(&alice)).await.unwrap_err(), 403, "no upgrade on other routes");
        let mut socket = open(&envoy, "/ws", Some(&alice)).await.unwrap();
        assert_eq!(text(&mut socket).await.as_deref(), Some("alice"));
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(text(&mut socket).await.as_deref(), Some("hello"));

        assert_eq!(doorward.post("/logout", &alice).await.0, 204);
        assert_eq!(open(&envoy, "/ws", Some(&alice)).await.unwrap_err(), 401, "none is opened after the sign-out");
        assert_eq!(text(&mut socket).await, None, "and what is open ends");

        // Independent of the filter, the route has a maximum duration: here a short one.
        let bob = tokens.of("bob");
        let short = envoy::text("envoy/streams.yaml", &doorward.check, upstream);
        let short = short.replace("max_stream_duration: 900s", "max_stream_duration: 1s");
        let envoy = Envoy::start_text(&binary, &short).await;
        let mut socket = open(&envoy, "/ws", Some(&bob)).await.unwrap();
        assert_eq!(text(&mut socket).await.as_deref(), Some("bob"));
        assert_eq!(text(&mut socket).await, None, "closed by Envoy");
    }
}

/// As a browser sends it, which cannot set a header. The client's library refuses a handshake whose answer selects
/// none of the subprotocols that it offered.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_s_token_may_stand_among_its_subprotocols() {
    for binary in envoy::binaries() {
        for forward in [true, false] {
            let (tokens, mut tasks) = (Tokens::new(), JoinSet::new());
            let source = format!("token: {{forward: {forward}, from: [{{websocket_protocol: bearer}}]}}\n");
            let doorward = Doorward::start(&tokens.config(&source)).await;
            let upstream = echo_server(&mut tasks).await;
            let envoy = Envoy::start(&binary, "streams.yaml", &doorward.check, upstream).await;
            let shake = async |offer: String| {
                let mut request = format!("ws://{}/ws", envoy.address).into_client_request().unwrap();
                request.headers_mut().insert("sec-websocket-protocol", offer.parse().unwrap());
                tokio_tungstenite::connect_async(request).await
            };
            let alice = tokens.of("alice");
            let (mut socket, answer) = shake(format!("bearer, {alice}")).await.unwrap();
            assert_eq!(answer.headers()["sec-websocket-protocol"], "bearer", "forward: {forward}");
            assert_eq!(text(&mut socket).await.as_deref(), Some("alice"));
            socket.send(Message::text("hello")).await.unwrap();
            assert_eq!(text(&mut socket).await.as_deref(), Some("hello"));
            for refused in ["bearer".to_owned(), format!("chat, {alice}"), format!("bearer, {alice}x")] {
                let Err(Error::Http(answer)) = shake(refused.clone()).await else { panic!("{refused} is let in") };
                assert_eq!(answer.status(), 401, "{refused}");
                assert!(!answer.headers().contains_key("sec-websocket-protocol"), "{refused}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_is_allowed_or_refused_with_a_grpc_status() {
    for binary in envoy::binaries() {
        let (tokens, mut tasks) = (Tokens::new(), JoinSet::new());
        let rules = "rules: [{name: reflection, match: {path_prefix: /grpc.reflection.v1.ServerReflection}, require: {scopes: [debug]}}]\n";
        let mut doorward = Doorward::start(&tokens.config(rules)).await;
        let (_reporter, health) = tonic_health::server::health_reporter();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(health);
        tasks.spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });

        let upstream = Upstream::start().await;
        let text = envoy::text("envoy/streams.yaml", &doorward.check, upstream.address);
        let envoy =
            Envoy::start_text(&binary, &text.replace("port_value: 50051", &format!("port_value: {port}"))).await;
        let channel = tonic::transport::Endpoint::new(envoy.url("")).unwrap().connect().await.unwrap();
        let request = |token: Option<&str>| {
            let mut request = tonic::Request::new(HealthCheckRequest { service: String::new() });
            if let Some(token) = token {
                request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            }
            request
        };
        let check = async |token: Option<&str>| HealthClient::new(channel.clone()).check(request(token)).await;
        let alice = tokens.of("alice");
        assert_eq!(check(Some(&alice)).await.unwrap().into_inner().status, 1, "SERVING");

        let refused = check(None).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        let body: serde_json::Value = serde_json::from_str(refused.message()).unwrap();
        assert_eq!(body["reason"], "missing_token", "the answer is in grpc-message");
        assert!(refused.metadata().get("www-authenticate").is_some(), "{:?}", refused.metadata());

        assert_eq!(doorward.post("/logout", &alice).await.0, 204);
        let refused = check(Some(&alice)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains("signed_out"), "{}", refused.message());

        // 403 for a call that needs more than this token may.
        let bob = tokens.of("bob");
        let mut reflection =
            tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let mut asked = tonic::Request::new(tokio_stream::empty());
        asked.metadata_mut().insert("authorization", format!("Bearer {bob}").parse().unwrap());
        assert_eq!(reflection.server_reflection_info(asked).await.unwrap_err().code(), Code::PermissionDenied);

        // And an outage is an outage.
        doorward.process.signal("KILL");
        doorward.exit_code().await;
        assert_eq!(check(Some(&bob)).await.unwrap_err().code(), Code::Unavailable);
    }
}
