package doorward.sample;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.math.BigInteger;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PublicKey;
import java.security.Signature;
import java.security.spec.RSAPublicKeySpec;
import java.security.spec.X509EncodedKeySpec;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.Optional;

/** Reads Doorward's identity payload, plain or signed. */
public final class IdentityReader {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Duration CLOCK_SKEW = Duration.ofSeconds(30);
    /** Made-up key ids must not become a flood of fetches. */
    private static final Duration BETWEEN_FETCHES = Duration.ofSeconds(1);

    private final URI jwks;
    private final HttpClient client = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(1)).build();
    private Map<String, Key> keys = Map.of();
    private Instant fetched = Instant.MIN;

    private record Key(String algorithm, PublicKey key) {}

    private IdentityReader(URI jwks) {
        this.jwks = jwks;
    }

    /** For base64url JSON: only where nobody but Envoy can reach this service. */
    public static IdentityReader plain() {
        return new IdentityReader(null);
    }

    /** For payloads signed by Doorward, whose keys are at its {@code /jwks.json}. */
    public static IdentityReader signed(URI jwks) {
        return new IdentityReader(jwks);
    }

    /** Empty for a header that is absent, forged, expired or not what this reader is for. */
    public Optional<Identity> read(String header) {
        try {
            if (header == null) {
                return Optional.empty();
            }
            byte[] payload = jwks == null ? decode(header) : verified(header);
            return Optional.of(JSON.readValue(payload, Identity.class)).filter(identity -> identity.userId() != null);
        } catch (IOException | GeneralSecurityException | RuntimeException e) {
            return Optional.empty();
        }
    }

    private byte[] verified(String jws) throws IOException, GeneralSecurityException {
        String[] parts = jws.split("\\.", -1);
        JsonNode header = JSON.readTree(decode(parts[0]));
        Key key = key(header.path("kid").asText());
        // The key determines its use, never the payload. The type excludes access tokens.
        if (parts.length != 3 || key == null || !key.algorithm.equals(header.path("alg").asText())
                || !"identity+jwt".equals(header.path("typ").asText())) {
            throw new GeneralSecurityException("not an identity of a known key");
        }
        Signature signature = Signature.getInstance(switch (key.algorithm) {
            case "ES256" -> "SHA256withECDSAinP1363Format";
            case "RS256" -> "SHA256withRSA";
            case "EdDSA" -> "Ed25519";
            default -> throw new GeneralSecurityException("unknown algorithm");
        });
        signature.initVerify(key.key);
        signature.update((parts[0] + "." + parts[1]).getBytes(StandardCharsets.US_ASCII));
        byte[] payload = decode(parts[1]);
        Instant expires = Instant.ofEpochSecond(JSON.readTree(payload).required("exp").asLong());
        if (!signature.verify(decode(parts[2])) || Instant.now().isAfter(expires.plus(CLOCK_SKEW))) {
            throw new GeneralSecurityException("bad signature or expired");
        }
        return payload;
    }

    /** The key of this id; an unknown one may be new, so the keys are fetched again. */
    private synchronized Key key(String id) throws IOException, GeneralSecurityException {
        if (!keys.containsKey(id) && Instant.now().isAfter(fetched.plus(BETWEEN_FETCHES))) {
            fetched = Instant.now();
            HttpRequest request = HttpRequest.newBuilder(jwks).timeout(Duration.ofSeconds(2)).build();
            try {
                HttpResponse<byte[]> response = client.send(request, HttpResponse.BodyHandlers.ofByteArray());
                Map<String, Key> found = new HashMap<>();
                for (JsonNode jwk : JSON.readTree(response.body()).required("keys")) {
                    found.put(jwk.required("kid").asText(), new Key(jwk.required("alg").asText(), publicKey(jwk)));
                }
                keys = found;
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }
        return keys.get(id);
    }

    private static PublicKey publicKey(JsonNode jwk) throws GeneralSecurityException {
        String type = jwk.required("kty").asText();
        if (type.equals("RSA")) {
            BigInteger modulus = new BigInteger(1, decode(jwk.required("n").asText()));
            BigInteger exponent = new BigInteger(1, decode(jwk.required("e").asText()));
            return KeyFactory.getInstance("RSA").generatePublic(new RSAPublicKeySpec(modulus, exponent));
        }
        // Elliptic curves: what X.509 puts before the bare point.
        HexFormat hex = HexFormat.of();
        String point = hex.formatHex(decode(jwk.required("x").asText()));
        if (type.equals("EC")) {
            point += hex.formatHex(decode(jwk.required("y").asText()));
            byte[] encoded = hex.parseHex("3059301306072a8648ce3d020106082a8648ce3d03010703420004" + point);
            return KeyFactory.getInstance("EC").generatePublic(new X509EncodedKeySpec(encoded));
        }
        byte[] encoded = hex.parseHex("302a300506032b6570032100" + point);
        return KeyFactory.getInstance("Ed25519").generatePublic(new X509EncodedKeySpec(encoded));
    }

    private static byte[] decode(String base64url) {
        return Base64.getUrlDecoder().decode(base64url);
    }
}
