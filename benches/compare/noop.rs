//! A baseline of `compare.sh`: tonic's generated server with Envoy's messages, decoded in full, that
//! allows everything and decides nothing.
//!
//!     compare-noop 127.0.0.1:PORT | unix:PATH
#![expect(clippy::expect_used, reason = "it stops where it cannot measure")]

use envoy_types::ext_authz::v3::pb::{Authorization, AuthorizationServer, CheckRequest, CheckResponse};
use envoy_types::pb::envoy::service::auth::v3::OkHttpResponse;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::google::rpc::Status as RpcStatus;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // As Doorward has.

struct AllowAll;

#[tonic::async_trait]
impl Authorization for AllowAll {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(CheckResponse {
            status: Some(RpcStatus::default()),
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
            dynamic_metadata: None,
        }))
    }
}

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).expect("where to listen");
    let service = AuthorizationServer::new(AllowAll);
    let mut server = Server::builder().max_concurrent_streams(2048);
    let served = if let Some(path) = address.strip_prefix("unix:") {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).expect("a socket");
        server.add_service(service).serve_with_incoming(UnixListenerStream::new(listener)).await
    } else {
        let listener = TcpListener::bind(&address).await.expect("a port");
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        server.add_service(service).serve_with_incoming(incoming).await
    };
    served.expect("a server");
}
