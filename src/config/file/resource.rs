//! The section `resource`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The description of the protected resource for OAuth clients (RFC 9728): served at
/// `/.well-known/oauth-protected-resource`, and named by the challenges of refusals.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceFile {
    /// The URL by which clients know the resource. `request`: each path is a resource of its own, at the host that the
    /// client asked.
    #[schemars(example = "https://api.example.com")]
    pub identifier: String,
    /// The scopes that clients may ask for.
    pub scopes: Option<Vec<String>>,
    /// The URL of a page for developers.
    #[schemars(example = "https://docs.example.com/api")]
    pub documentation: Option<String>,
}

impl Default for ResourceFile {
    fn default() -> Self {
        Self { identifier: "request".to_owned(), scopes: None, documentation: None }
    }
}
