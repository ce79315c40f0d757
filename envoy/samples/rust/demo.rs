//! A service that answers with who is calling: `demo PORT [JWKS_URL]`.
#![expect(clippy::print_stdout, reason = "says its port to whoever started it with port 0")]

mod identity;

use axum::{Json, Router};
use identity::{Identity, IdentityReader};
use serde_json::{Value, json};

async fn who_am_i(identity: Identity) -> Json<Value> {
    let Identity { token_id, expires_at, user_id, email, scopes } = identity;
    Json(json!({"jti": token_id, "expires": expires_at, "user": user_id, "email": email, "scopes": scopes}))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().unwrap_or_default().parse()?;
    let reader = arguments.next().map_or_else(IdentityReader::plain, IdentityReader::signed);
    let app = Router::new().fallback(who_am_i).with_state(reader);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("{}", listener.local_addr()?.port());
    Ok(axum::serve(listener, app).await?)
}
