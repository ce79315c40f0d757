import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import org.springframework.data.redis.connection.lettuce.LettuceConnectionFactory;
import org.springframework.data.redis.core.RedisTemplate;
import org.springframework.data.redis.core.StringRedisTemplate;
import org.springframework.data.redis.serializer.GenericJackson2JsonRedisSerializer;
import org.springframework.data.redis.serializer.JdkSerializationRedisSerializer;
import org.springframework.data.redis.serializer.RedisSerializer;
import org.springframework.data.redis.serializer.StringRedisSerializer;

/** Templates.java PORT FORM ID: revokes a token of the issuer `dev` by one of Spring's templates. */
class Templates {
    public static void main(String[] arguments) {
        var connections = new LettuceConnectionFactory("127.0.0.1", Integer.parseInt(arguments[0]));
        connections.afterPropertiesSet();
        connections.start();
        String id = arguments[2];
        Instant expires = Instant.now().plusSeconds(600);
        var template = template(arguments[1]);
        template.setConnectionFactory(connections);
        template.afterPropertiesSet();
        template.opsForValue().set("doorward:{r}:dev:token:" + id, "* revoked", Duration.ofSeconds(600));
        template.opsForStream().add("doorward:{r}:log", Map.of("issuer", "dev", "kind", "token", "id", id, "at", "*",
            "expires", "" + expires.toEpochMilli(), "origin", "revoked", "reason", "test"));
        connections.destroy();
    }

    private static RedisTemplate<String, String> template(String form) {
        return switch (form) {
            case "string" -> new StringRedisTemplate();
            case "json" -> texts(new GenericJackson2JsonRedisSerializer());
            case "jdk" -> texts(new JdkSerializationRedisSerializer());
            default -> new RedisTemplate<>(); // Spring's own: keys and values in Java's serialisation.
        };
    }

    /** Keys as text, values and the fields of streams by another serializer. */
    private static RedisTemplate<String, String> texts(RedisSerializer<?> values) {
        var template = new RedisTemplate<String, String>();
        template.setDefaultSerializer(values);
        template.setKeySerializer(new StringRedisSerializer());
        return template;
    }
}
