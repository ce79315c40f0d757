package doorward.sample;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonProperty;
import java.time.Instant;
import java.util.List;

/** Who is calling, as Doorward says; what the token does not tell is null. */
@JsonIgnoreProperties(ignoreUnknown = true)
public record Identity(
        @JsonProperty("issuer") String issuer,
        @JsonProperty("user_id") String userId,
        @JsonProperty("email") String email,
        @JsonProperty("token_id") String tokenId,
        @JsonProperty("expires_at") long expiresAtSeconds,
        @JsonProperty("scopes") List<String> scopes) {

    public Instant expiresAt() {
        return Instant.ofEpochSecond(expiresAtSeconds);
    }
}
