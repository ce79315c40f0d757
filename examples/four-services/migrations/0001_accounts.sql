-- Users, their sessions and refresh tokens. The SQL is what SQLite and PostgreSQL have in common.
-- Instants are seconds since 1970.

CREATE TABLE users (
    login TEXT PRIMARY KEY,           -- the `sub` of the tokens
    email TEXT NOT NULL,
    password_hash TEXT NOT NULL,      -- Argon2id, as a PHC string
    permissions TEXT NOT NULL,        -- separated by spaces
    last_login_at BIGINT
);

-- A family: all refresh tokens that came of one login. It is the session (`sid`) of its access tokens.
CREATE TABLE families (
    sid TEXT PRIMARY KEY,
    login TEXT NOT NULL REFERENCES users,
    started_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT                   -- NULL while it lives
);

CREATE INDEX families_of_user ON families (login, started_at);

CREATE TABLE refresh_tokens (
    hash TEXT PRIMARY KEY,            -- SHA-256 of the token, in hex: a reader of this table has no token
    sid TEXT NOT NULL REFERENCES families ON DELETE CASCADE,
    expires_at BIGINT NOT NULL,
    used_at BIGINT                    -- set once; a second use means that the token was stolen
);

CREATE INDEX refresh_tokens_of_family ON refresh_tokens (sid, used_at);
