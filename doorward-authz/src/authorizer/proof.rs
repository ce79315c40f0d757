//! Bound tokens: whether the sender of a request may use its token.

use super::attempt::{Attempt, Proof};
use super::{Needs, Stop};
use crate::confirmation::{Confirmation, Thumbprint};
use crate::denial::Denial;
use crate::dpop::{self, BadProof, Expected, ProofUse, Spending, VerifiedProof};
use crate::token::{TrustedIssuer, VerifiedToken};
use crate::token_source::{FoundToken, Scheme};

/// A token whose sender is permitted to use it.
///
/// Only [`Attempt::spend`] returns one.
#[derive(Clone, Debug)]
pub(super) struct ProvedToken {
    token: VerifiedToken,
    by_dpop: bool,
}

impl ProvedToken {
    pub(super) const fn token(&self) -> &VerifiedToken {
        &self.token
    }

    pub(super) const fn is_by_dpop(&self) -> bool {
        self.by_dpop
    }
}

labels! {
    /// The result of a proof: a closed set.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum ProofResult {
        Accepted = "accepted",
        Missing = "missing",
        Invalid = "invalid",
        /// The proof is valid, and was used before.
        Replayed = "replayed",
        /// The proof has no nonce, or an old one.
        Nonce = "nonce",
        /// Whether the proof was used before cannot be determined.
        Unknown = "unknown",
    }
}

/// The result of the request's proof, and the values for its client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProofEvidence {
    pub result: ProofResult,
    /// For the client's next proof.
    pub nonce: Option<Box<str>>,
}

impl ProofEvidence {
    const fn of(result: ProofResult) -> Self {
        Self { result, nonce: None }
    }
}

/// A refusal with its cause.
type Unproved = (ProofResult, Box<str>);

impl Attempt<'_> {
    /// Checks that the sender of a request may use its token: everything that the token is bound to.
    pub(super) fn prove(
        &mut self,
        issuer: &TrustedIssuer,
        found: &FoundToken<'_>,
        token: &VerifiedToken,
    ) -> Result<Proof, Stop> {
        if !self.rule.needs_proof || issuer.proof == ProofUse::Ignore {
            return Ok(Proof::Given);
        }
        let unproved = match token.confirmation() {
            None if found.scheme() == Scheme::Dpop => (
                ProofResult::Invalid,
                "the token is sent with the scheme `DPoP` and is not bound to a key (`cnf.jkt`)".into(),
            ),
            None if issuer.proof == ProofUse::Required => {
                (ProofResult::Missing, "the token is not bound (`cnf`); `proof: required` refuses it".into())
            }
            None => return Ok(Proof::Given),
            Some(confirmation) => {
                self.evidence.is_dpop |= confirmation.key.is_some();
                match self.prove_bound(confirmation, issuer, found) {
                    Ok(proof) => return Ok(proof),
                    Err(unproved) => unproved,
                }
            }
        };
        let (result, detail) = unproved;
        let nonce = (result == ProofResult::Nonce).then(|| self.issue_nonce()).flatten();
        self.evidence.proof = Some(ProofEvidence { result, nonce });
        self.evidence.detail.get_or_insert(detail);
        let denial = if result == ProofResult::Missing { Denial::ProofMissing } else { Denial::ProofInvalid };
        Err(denial.into())
    }

    fn prove_bound(
        &mut self,
        confirmation: &Confirmation,
        issuer: &TrustedIssuer,
        found: &FoundToken<'_>,
    ) -> Result<Proof, Unproved> {
        if let Some(fault) = &confirmation.fault {
            return Err((ProofResult::Invalid, fault.clone()));
        }
        if let Some(certificate) = confirmation.certificate {
            self.prove_certificate(certificate)?;
        }
        let proof = match confirmation.key {
            Some(key) => self.prove_key(key, issuer, found)?,
            None if found.scheme() == Scheme::Dpop => {
                let detail = "the token is sent with the scheme `DPoP` and is bound to a certificate alone";
                return Err((ProofResult::Invalid, detail.into()));
            }
            None => {
                self.evidence.proof = Some(ProofEvidence::of(ProofResult::Accepted));
                return Ok(Proof::Given);
            }
        };
        let nonce = proof.wants_nonce.then(|| self.issue_nonce()).flatten();
        self.evidence.proof = Some(ProofEvidence { result: ProofResult::Accepted, nonce });
        Ok(Proof::Dpop(Box::new(proof)))
    }

    fn prove_certificate(&self, bound: Thumbprint) -> Result<(), Unproved> {
        match self.authorizer.proxy.certificate.thumbprint(self.request) {
            Ok(Some(shown)) if shown == bound => Ok(()),
            Ok(Some(_)) => Err((
                ProofResult::Invalid,
                "the client's certificate differs from the one that the token is bound to (`cnf.x5t#S256`)".into(),
            )),
            Ok(None) => Err((
                ProofResult::Missing,
                "the token is bound to a certificate, and the proxy sends none (`proxy.client_certificate`)".into(),
            )),
            Err(detail) => Err((ProofResult::Invalid, detail.into())),
        }
    }

    fn prove_key(
        &self,
        key: Thumbprint,
        issuer: &TrustedIssuer,
        found: &FoundToken<'_>,
    ) -> Result<VerifiedProof, Unproved> {
        let (authorizer, request, view) = (self.authorizer, self.request, self.view);
        let mut fields = request.header(dpop::FIELD);
        let field = fields.next().ok_or_else(|| {
            (ProofResult::Missing, "the token is bound to a key, and the request has no header `DPoP`".into())
        })?;
        let invalid = |detail: &str| (ProofResult::Invalid, detail.into());
        if fields.next().is_some() {
            return Err(invalid("the request has more than one header `DPoP`"));
        }
        // RFC 9449 section 7.2: a bound token must not be accepted as a bearer token.
        if found.scheme() == Scheme::Bearer {
            return Err(invalid("the token is bound to a key, and is sent with the scheme `Bearer`, not `DPoP`"));
        }
        let uri = authorizer.proxy.uri(request).map_err(|setting| {
            (ProofResult::Invalid, format!("the request's URI is not known: see `{setting}`").into())
        })?;
        let expected = Expected {
            token: found.bearer(),
            key,
            method: request.method,
            uri: &uri,
            leeway: issuer.leeway,
            policy: issuer.dpop,
            nonces: authorizer.nonces.as_deref(),
            forgotten: view.index.forgotten(),
        };
        // The result for the same request from the attempt before the store was asked about the proof.
        if let Some((known, _)) = view.proof.filter(|(known, _)| known.is_of(field, &expected)) {
            return Ok(known.clone());
        }
        VerifiedProof::verify(field, &expected, self.now).map_err(|bad| match bad {
            BadProof::Invalid(detail) => (ProofResult::Invalid, detail),
            BadProof::Nonce => (
                ProofResult::Nonce,
                "the proof has no nonce of Doorward's, or one that is too old (`dpop.nonce`)".into(),
            ),
        })
    }

    fn issue_nonce(&self) -> Option<Box<str>> {
        self.authorizer.nonces.as_ref()?.issue(self.now).map(Into::into)
    }

    /// Refuses a proof that was used before; if that is open, asks the store, after all other needs.
    pub(super) fn spend(&mut self, proof: &Proof, token: VerifiedToken) -> Result<ProvedToken, Stop> {
        let Proof::Dpop(proof) = proof else { return Ok(ProvedToken { token, by_dpop: false }) };
        let (result, denial) = match self.view.proof.filter(|(known, _)| known.id() == proof.id()) {
            None => return Err(Stop::Needs(Needs::Spending(proof.clone()))),
            Some((_, Spending::First)) => return Ok(ProvedToken { token, by_dpop: true }),
            Some((_, Spending::Again)) => (ProofResult::Replayed, Denial::ProofInvalid),
            Some((_, Spending::Unknown)) => (ProofResult::Unknown, Denial::StoreUnavailable),
        };
        self.evidence.proof = Some(ProofEvidence::of(result));
        if result == ProofResult::Replayed {
            self.evidence.detail = Some("the proof was used before (`jti`)".into());
        }
        Err(denial.into())
    }
}
