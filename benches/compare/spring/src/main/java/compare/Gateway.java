package compare;

import com.nimbusds.jose.jwk.JWKSet;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.List;
import java.util.Optional;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.cloud.gateway.filter.GlobalFilter;
import org.springframework.cloud.gateway.route.RouteLocator;
import org.springframework.cloud.gateway.route.builder.RouteLocatorBuilder;
import org.springframework.context.annotation.Bean;
import org.springframework.data.redis.core.ReactiveStringRedisTemplate;
import org.springframework.http.HttpHeaders;
import org.springframework.http.HttpStatus;
import org.springframework.security.oauth2.core.DelegatingOAuth2TokenValidator;
import org.springframework.security.oauth2.jwt.Jwt;
import org.springframework.security.oauth2.jwt.JwtClaimValidator;
import org.springframework.security.oauth2.jwt.JwtException;
import org.springframework.security.oauth2.jwt.JwtIssuerValidator;
import org.springframework.security.oauth2.jwt.JwtTimestampValidator;
import org.springframework.security.oauth2.jwt.JwtTypeValidator;
import org.springframework.security.oauth2.jwt.NimbusReactiveJwtDecoder;
import org.springframework.security.oauth2.jwt.ReactiveJwtDecoder;
import org.springframework.web.server.ServerWebExchange;
import reactor.core.publisher.Flux;
import reactor.core.publisher.Mono;
import tools.jackson.databind.json.JsonMapper;

/**
 * What compare.sh compares Doorward with: a gateway that verifies the token, asks Redis whether its {@code jti} was
 * signed out, and tells the service who the user is. It answers itself, as the Envoys of the comparison do.
 */
@SpringBootApplication
public class Gateway {
    public static void main(String[] args) {
        SpringApplication.run(Gateway.class, args);
    }

    @Bean
    RouteLocator routes(RouteLocatorBuilder builder) {
        return builder.routes().route("all", route -> route.path("/**").uri("no://op")).build();
    }

    @Bean
    ReactiveJwtDecoder decoder(@Value("${jwks}") String jwks) throws Exception {
        var keys = JWKSet.parse(jwks).getKeys();
        var decoder = NimbusReactiveJwtDecoder.withJwkSource(token -> Flux.fromIterable(keys)).validateType(false).build();
        decoder.setJwtValidator(new DelegatingOAuth2TokenValidator<Jwt>(
                new JwtTimestampValidator(),
                new JwtTypeValidator("at+jwt"),
                new JwtIssuerValidator("https://auth.example.com"),
                new JwtClaimValidator<List<String>>("aud", audiences -> audiences != null && audiences.contains("shop"))));
        return decoder;
    }

    @Bean
    GlobalFilter signedIn(ReactiveJwtDecoder decoder, ReactiveStringRedisTemplate redis, JsonMapper json) {
        return (exchange, chain) -> {
            var authorization = exchange.getRequest().getHeaders().getFirst(HttpHeaders.AUTHORIZATION);
            if (authorization == null || !authorization.startsWith("Bearer ")) return refuse(exchange);
            return decoder.decode(authorization.substring("Bearer ".length()))
                    .filterWhen(token -> redis.hasKey("signed-out:" + token.getId()).map(listed -> !listed))
                    .map(Optional::of)
                    .onErrorResume(JwtException.class, refused -> Mono.empty())
                    .defaultIfEmpty(Optional.empty())
                    .flatMap(token -> token.isEmpty()
                            ? refuse(exchange)
                            : chain.filter(identified(exchange, token.get(), json)).then(Mono.defer(() -> answer(exchange))));
        };
    }

    private static ServerWebExchange identified(ServerWebExchange exchange, Jwt token, JsonMapper json) {
        var payload = Base64.getUrlEncoder().withoutPadding().encodeToString(json.writeValueAsBytes(token.getClaims()));
        return exchange.mutate()
                .request(request -> request.headers(headers -> {
                    headers.set("x-user-id", token.getSubject());
                    headers.set("x-user-email", token.getClaimAsString("email"));
                    headers.set("x-user", payload);
                }))
                .build();
    }

    private static Mono<Void> answer(ServerWebExchange exchange) {
        var body = exchange.getResponse().bufferFactory().wrap("ok".getBytes(StandardCharsets.UTF_8));
        exchange.getResponse().getHeaders().setContentLength(2);
        return exchange.getResponse().writeWith(Mono.just(body));
    }

    private static Mono<Void> refuse(ServerWebExchange exchange) {
        exchange.getResponse().setStatusCode(HttpStatus.UNAUTHORIZED);
        return exchange.getResponse().setComplete();
    }
}
