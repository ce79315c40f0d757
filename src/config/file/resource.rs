//! The section `resource`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

section! {
    /// The description of the protected resource for OAuth clients (RFC 9728): served at
    /// `/.well-known/oauth-protected-resource`, and named by the challenges of refusals.
    pub struct ResourceFile {
        /// The URL by which clients know the resource. With `request`, each path is a separate resource, at the host of
        /// the request.
        #[schemars(example = "https://api.example.com", extend("x-shown" = "location"))]
        pub identifier: String = "request".to_owned(),
        /// The scopes that clients may request.
        #[schemars(extend("x-shown" = "text"))]
        pub scopes: Option<Vec<String>> = None,
        /// The URL of a page for developers.
        #[schemars(example = "https://docs.example.com/api", extend("x-shown" = "url"))]
        pub documentation: Option<String> = None,
    }
}
