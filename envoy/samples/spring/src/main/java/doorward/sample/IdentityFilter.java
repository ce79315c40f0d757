package doorward.sample;

import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.Optional;

/**
 * Makes the caller's identity an attribute of the request; without one the answer is 401.
 *
 * <p>In Spring Boot it is a bean: {@code @Bean IdentityFilter identity() { return new
 * IdentityFilter(IdentityReader.signed(URI.create("http://doorward:9192/jwks.json"))); }}, and a
 * controller takes {@code @RequestAttribute Identity identity}.
 */
public final class IdentityFilter implements Filter {
    public static final String HEADER = "x-identity";
    public static final String ATTRIBUTE = "identity";

    private final IdentityReader reader;

    public IdentityFilter(IdentityReader reader) {
        this.reader = reader;
    }

    @Override
    public void doFilter(ServletRequest request, ServletResponse response, FilterChain chain)
            throws IOException, ServletException {
        Optional<Identity> identity = reader.read(((HttpServletRequest) request).getHeader(HEADER));
        if (identity.isEmpty()) {
            ((HttpServletResponse) response).setStatus(HttpServletResponse.SC_UNAUTHORIZED);
            return;
        }
        request.setAttribute(ATTRIBUTE, identity.get());
        chain.doFilter(request, response);
    }
}
