//! The checks of a decision.

labels! {
    /// A check of a decision, with its name in explanations. The order is that of the checks.
    #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
    pub enum Check {
        Rule = "rule",
        ApiKey = "api key",
        Token = "token",
        Issuer = "issuer",
        Algorithm = "algorithm",
        Key = "key",
        Signature = "signature",
        Type = "type",
        Time = "time",
        Audience = "audience",
        Claims = "claims",
        Introspection = "introspection",
        Proof = "proof",
        Revocation = "revocation",
        Scopes = "scopes",
        RequiredClaims = "required claims",
        Authentication = "authentication",
    }
}
