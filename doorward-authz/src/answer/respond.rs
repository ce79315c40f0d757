//! The answer to a client that is not let through: status, challenge and body.

use serde_json::json;

use super::Responder;
use crate::authorizer::{Evidence, LockedOut, ProofResult};
use crate::denial::{BEARER, Check, Class, Denial};
use crate::dpop;
use crate::rule::{RequestView, Requirements};

#[derive(Clone, Debug)]
pub struct Respond {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Respond {
    /// The `grpc-status` of the same answer, as Envoy derives it from an HTTP status (`Grpc::Utility::httpToGrpcStatus`).
    #[must_use]
    pub const fn grpc_status(&self) -> &'static str {
        match self.status {
            400 => "13", // Internal
            401 => "16", // Unauthenticated
            403 => "7",  // PermissionDenied
            503 => "14", // Unavailable
            _ => "2",    // Unknown
        }
    }
}

impl Responder {
    /// The refusal for a reason; `require`, `evidence` and `request` provide the parameters of a challenge.
    #[must_use]
    pub fn refuse(
        &self,
        denial: Denial,
        require: &Requirements,
        evidence: &Evidence,
        request: &RequestView<'_>,
    ) -> Respond {
        let class = class_of(denial, evidence);
        let mut headers =
            vec![("content-type", "application/json".to_owned()), ("cache-control", "no-store".to_owned())];
        if let Some(challenge) = self.challenge(denial, class, require, evidence.is_dpop, request) {
            headers.push(("www-authenticate", challenge));
        }
        let nonce = evidence.proof.as_ref().and_then(|proof| proof.nonce.as_deref());
        headers.extend(nonce.map(|nonce| (dpop::NONCE_FIELD, nonce.to_owned())));
        if class.status == 503 {
            headers.push(("retry-after", "1".to_owned()));
        }
        let mut body = self.body(class.error, denial.label(), denial.message());
        if let (Denial::Revoked | Denial::SignedOut, Some(LockedOut { until, left })) = (denial, evidence.locked_out) {
            headers.push(("retry-after", left.as_millis().div_ceil(1000).to_string()));
            body["until"] = until.to_rfc3339().into();
        }
        Respond { status: class.status, headers, body: body.to_string() }
    }

    /// The refusal, with 503, of a stream whose request is not at fault; both texts are constants.
    #[must_use]
    pub fn refuse_stream(&self, reason: &'static str, message: &'static str) -> Respond {
        let class = Denial::InternalError.class();
        let headers = [("content-type", "application/json"), ("cache-control", "no-store"), ("retry-after", "1")];
        let headers = headers.map(|(name, value)| (name, value.to_owned())).into();
        Respond { status: class.status, headers, body: self.body(class.error, reason, message).to_string() }
    }

    fn body(&self, error: &str, reason: &str, message: &str) -> serde_json::Value {
        if self.errors.reasons {
            json!({"error": error, "reason": reason, "message": message})
        } else {
            json!({"error": error})
        }
    }

    /// RFC 6750 section 3, RFC 9449 section 7.1, RFC 9470 section 3, RFC 9728 section 5.1.
    fn challenge(
        &self,
        denial: Denial,
        class: Class,
        require: &Requirements,
        is_dpop: bool,
        request: &RequestView<'_>,
    ) -> Option<String> {
        let scheme = class.challenge?;
        let mut parameters = Vec::new();
        // Clients that follow the challenge to the issuer request the scopes of the rule there (MCP, Scope Selection
        // Strategy).
        let leads = scheme == BEARER && self.resource.is_some();
        let metadata = self.resource.as_ref().filter(|_| leads).and_then(|resource| resource.metadata_url(request));
        // RFC 6750 section 3.1: no error code where no credentials were.
        if scheme == BEARER && denial != Denial::MissingToken {
            parameters.push(("error", class.error.to_owned()));
            if self.errors.reasons {
                parameters.push(("error_description", denial.message().to_owned()));
            }
            if denial == Denial::InsufficientAuthentication {
                let acr = Some(require.acr.join(" ")).filter(|acr| !acr.is_empty());
                parameters.extend(acr.map(|acr| ("acr_values", acr)));
                parameters.extend(require.max_age.map(|max_age| ("max_age", max_age.as_secs().to_string())));
            }
        }
        if denial == Denial::InsufficientScope || leads && !require.scopes.is_empty() {
            parameters.push(("scope", require.scopes.join(" ")));
        }
        let written = |scheme: &str, more: Vec<(&str, String)>| {
            let algorithms = (scheme == dpop::SCHEME).then(|| ("algs", dpop::algorithms()));
            let metadata = metadata.iter().map(|url| ("resource_metadata", url.clone()));
            let parameters = [("realm", self.errors.realm.clone())].into_iter().chain(more).chain(algorithms);
            let parameters = parameters.chain(metadata);
            let parameters: Vec<_> = parameters.map(|(name, value)| format!("{name}=\"{value}\"")).collect();
            format!("{scheme} {}", parameters.join(", "))
        };
        Some(match scheme {
            BEARER if is_dpop => written(dpop::SCHEME, parameters),
            // One field, because Envoy would set only the last of several.
            BEARER if self.asks_for_dpop => {
                format!("{}, {}", written(scheme, parameters), written(dpop::SCHEME, Vec::new()))
            }
            scheme => written(scheme, parameters),
        })
    }
}

/// The class of a denial; if a proof is refused, the error code names the client's next step.
fn class_of(denial: Denial, evidence: &Evidence) -> Class {
    let class = denial.class();
    let error = match (denial.check(), evidence.proof.as_ref().map(|proof| proof.result)) {
        (Some(Check::Proof), Some(ProofResult::Nonce)) => "use_dpop_nonce", // RFC 9449 section 9.
        (Some(Check::Proof), _) if evidence.is_dpop => "invalid_dpop_proof",
        _ => class.error,
    };
    Class { error, ..class }
}

pub(super) fn signed_out() -> Respond {
    Respond { status: 204, headers: vec![("cache-control", "no-store".to_owned())], body: String::new() }
}
