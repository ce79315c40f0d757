package doorward.client;

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.time.Instant;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.springframework.dao.DataAccessException;
import org.springframework.data.redis.core.RedisCallback;
import org.springframework.data.redis.core.RedisOperations;
import org.springframework.data.redis.core.SessionCallback;
import org.springframework.data.redis.core.StringRedisTemplate;

/** Revokes tokens at Doorward by Redis: the key and the log entry in one transaction. */
public record Doorward(StringRedisTemplate redis, String issuer, Duration maxLifetime, Duration leeway, String keyPrefix) {

    /** With the times and the prefix that Doorward has by default; {@code issuer} is the issuer's configured name. */
    public Doorward(StringRedisTemplate redis, String issuer) {
        this(redis, issuer, Duration.ofHours(24), Duration.ofSeconds(30), "doorward:");
    }

    /** One token, by its {@code jti}, until its {@code exp}. */
    public String revokeToken(String tokenId, Instant expires, String reason) {
        return revoke("token", tokenId, "*", expires, reason);
    }

    /** Every token of a session, by its {@code sid}. */
    public String revokeSession(String sessionId, String reason) {
        return revoke("session", sessionId, "*", now().plus(maxLifetime), reason);
    }

    /** Every token of a user that was issued up to now. */
    public String revokeUser(String userId, String reason) {
        Instant now = now();
        // Tokens of the second that is not over yet may be dated by its end.
        return revoke("user", userId, "" + now.plusSeconds(1).toEpochMilli(), now.plus(maxLifetime), reason);
    }

    /** By the clock of Redis: one that is behind would leave tokens of the last moments valid. */
    private Instant now() {
        Long millis = redis.execute((RedisCallback<Long>) connection -> connection.serverCommands().time());
        return Instant.ofEpochMilli(millis);
    }

    private String revoke(String kind, String target, String at, Instant until, String reason) {
        Instant expires = until.plus(leeway).plusSeconds(1);
        Duration life = Duration.between(now(), expires);
        String id = written(target);
        var entry = new LinkedHashMap<>(Map.of("issuer", issuer, "kind", kind, "id", id, "at", at,
            "expires", "" + expires.toEpochMilli(), "origin", "revoked", "reason", reason));
        if (kind.equals("user")) {
            entry.remove("at"); // Each instance adds to the entry's own time what it knows of the issuer's clock.
        }
        List<Object> answers = redis.execute(new SessionCallback<>() {
            @SuppressWarnings("unchecked")
            public <K, V> List<Object> execute(RedisOperations<K, V> operations) throws DataAccessException {
                var both = (RedisOperations<String, String>) operations;
                both.multi();
                if (life.toMillis() > 0) { // What has expired needs no key.
                    both.opsForValue().set(keyPrefix + "{r}:" + issuer + ":" + kind + ":" + id, at + " revoked", life);
                }
                both.opsForStream().add(keyPrefix + "{r}:log", entry);
                return both.exec();
            }
        });
        return answers.get(answers.size() - 1).toString();
    }

    private static String written(String target) {
        byte[] bytes = target.getBytes(StandardCharsets.UTF_8);
        if (bytes.length <= 128 && target.matches("[A-Za-z0-9._~@|+=-]+")) {
            return target;
        }
        try {
            return "sha256:" + HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error); // Every Java has SHA-256.
        }
    }
}
