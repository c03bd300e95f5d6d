# The application's image: the packages that run, and the code. It holds no
# secrets: .dockerignore names what is let in.
FROM oven/bun:1 AS packages
WORKDIR /app
COPY package.json bun.lock bunfig.toml ./
RUN bun install --frozen-lockfile --production --omit=optional

FROM oven/bun:1 AS gate
COPY src/gate.ts .
USER bun
CMD ["bun", "gate.ts"]

FROM oven/bun:1
WORKDIR /app
ENV NODE_ENV=production
COPY --from=packages /app/node_modules node_modules
COPY package.json bunfig.toml drizzle.config.ts ./
COPY scripts scripts
COPY src src
USER bun
EXPOSE 3000
CMD ["bun", "src/server.ts"]
