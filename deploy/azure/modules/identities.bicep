// Two identities: the platform's (Dagster, the labeling page), and that of whatever scores and trains.
param environmentName string
param location string

resource platform 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: 'id-${environmentName}-platform'
  location: location
}

resource scoring 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: 'id-${environmentName}-scoring'
  location: location
}

var managedIdentityOperator = 'f1a07417-d97a-45cb-824c-7a7467783830'

// A rollout writes the endpoint, which carries the scoring identity: Azure asks whether the writer may hand it out.
resource platformMayAssignScoring 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(scoring.id, platform.id, managedIdentityOperator)
  scope: scoring
  properties: {
    principalId: platform.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', managedIdentityOperator)
  }
}

output platformId string = platform.id
output platformName string = platform.name
output platformClientId string = platform.properties.clientId
output platformPrincipalId string = platform.properties.principalId
output scoringName string = scoring.name
output scoringClientId string = scoring.properties.clientId
output scoringPrincipalId string = scoring.properties.principalId
