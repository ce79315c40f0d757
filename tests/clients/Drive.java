import doorward.client.Doorward;
import java.time.Instant;
import org.springframework.data.redis.connection.lettuce.LettuceConnectionFactory;
import org.springframework.data.redis.core.StringRedisTemplate;

/** Drive.java PORT ISSUER KIND ID EXPIRES: revokes by clients/java, prints the position in the log. */
class Drive {
    public static void main(String[] arguments) {
        var connections = new LettuceConnectionFactory("127.0.0.1", Integer.parseInt(arguments[0]));
        connections.afterPropertiesSet();
        connections.start();
        var doorward = new Doorward(new StringRedisTemplate(connections), arguments[1]);
        String target = arguments[3];
        System.out.println(switch (arguments[2]) {
            case "token" -> doorward.revokeToken(target, Instant.ofEpochSecond(Long.parseLong(arguments[4])), "test");
            case "session" -> doorward.revokeSession(target, "test");
            default -> doorward.revokeUser(target, "test");
        });
        connections.destroy();
    }
}
