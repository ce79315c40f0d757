package doorward.sample;

import com.fasterxml.jackson.databind.ObjectMapper;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.util.EnumSet;
import org.eclipse.jetty.ee10.servlet.FilterHolder;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;

/** A service that answers with who is calling: {@code Demo PORT [JWKS_URL]}. */
public final class Demo {
    public static void main(String[] args) throws Exception {
        IdentityReader reader =
                args.length > 1 ? IdentityReader.signed(URI.create(args[1])) : IdentityReader.plain();
        Server server = new Server(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])));
        ServletContextHandler context = new ServletContextHandler();
        context.addFilter(new FilterHolder(new IdentityFilter(reader)), "/*", EnumSet.of(DispatcherType.REQUEST));
        context.addServlet(WhoAmI.class, "/*");
        server.setHandler(context);
        server.start();
        System.out.println(((ServerConnector) server.getConnectors()[0]).getLocalPort());
    }

    public static final class WhoAmI extends HttpServlet {
        @Override
        protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
            Identity identity = (Identity) request.getAttribute(IdentityFilter.ATTRIBUTE);
            response.setContentType("application/json");
            ObjectMapper json = new ObjectMapper();
            json.writeValue(response.getOutputStream(), json.createObjectNode()
                    .put("jti", identity.tokenId())
                    .put("expires", identity.expiresAt().getEpochSecond())
                    .put("user", identity.userId())
                    .put("email", identity.email())
                    .set("scopes", json.valueToTree(identity.scopes())));
        }
    }
}
